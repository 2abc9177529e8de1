"""Gradients term by term, for weights that depend on where they point."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from pesloss.losses.distributed import ranks
from pesloss.losses.total import LossOutput, TotalLoss
from pesloss.weighting import GradientWeighting


class TermGradients:
    """Gradient of every term by the parameters of a model, added up over the batches and ranks of one step.

    In place of ``loss(predictions, batch, step).backward()`` for each batch::

        gradients = TermGradients(loss, model.parameters())
        for batch in batches:
            gradients.add(loss.values(model(batch), batch, step))
        output = gradients.combine()

    Each batch takes a backward pass for every term. Under ``DistributedDataParallel`` the model is called
    within ``no_sync``: the average over the ranks is taken here, once for all terms and batches.

    Args:
        loss: whose weighting is a :class:`pesloss.weighting.GradientWeighting`.
        parameters: of the model.

    Raises:
        TypeError: if the weights of the loss do not depend on gradients.
    """

    def __init__(self, loss: TotalLoss, parameters: Iterable[torch.nn.Parameter]) -> None:
        if not isinstance(loss.weighting, GradientWeighting):
            raise TypeError(
                "TermGradients needs a loss whose weighting depends on gradients, such as conflict_free; "
                f"{type(loss.weighting).__name__} needs loss(...).backward() alone."
            )
        self.loss, self.weighting = loss, loss.weighting
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._values: Tensor | None = None
        self._gradients: Tensor | None = None
        self._used = torch.zeros(len(self.parameters), dtype=torch.bool)

    def add(self, values: Float[Tensor, "terms"]) -> None:
        """Differentiate the terms of one batch.

        Args:
            values: what ``loss.values`` gives.
        """
        last = len(values) - 1
        found = torch.stack([self._gradient(term, keep=i < last) for i, term in enumerate(values.unbind())])
        self._gradients = found if self._gradients is None else self._gradients.add_(found)
        self._values = values.detach() + (0 if self._values is None else self._values)

    def combine(self) -> LossOutput:
        """Give every parameter that a term depends on its gradient, Σ weight · gradient.

        Returns:
            values of the whole step with the weights that were found.

        Raises:
            ValueError: if there was no batch.
        """
        if self._gradients is None or self._values is None:
            raise ValueError("There is nothing to combine: add(loss.values(...)) for each batch of the step.")
        gradients, values = self._averaged(self._gradients), self._values
        weights = self.loss.weight * self.weighting.from_gradients(gradients.double() @ gradients.double().T)
        combined = weights.to(gradients.dtype) @ gradients
        parts = combined.split([parameter.numel() for parameter in self.parameters])
        for parameter, part, used in zip(self.parameters, parts, self._used.tolist(), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype) if used else None
        weights = weights.to(values.dtype)
        by_name = [dict(zip(self.loss.terms, part.unbind(), strict=True)) for part in (values, weights)]
        return LossOutput(torch.dot(weights, values), *by_name, values.new_zeros(()))

    def _gradient(self, value: Tensor, *, keep: bool) -> Tensor:
        """Gradient of one term by all parameters, in a row."""
        found = torch.autograd.grad(value, self.parameters, retain_graph=keep, allow_unused=True)
        self._used |= torch.tensor([gradient is not None for gradient in found])
        filled = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(self.parameters, found, strict=True)
        ]
        return torch.cat([gradient.flatten() for gradient in filled])

    def _averaged(self, gradients: Tensor) -> Tensor:
        """As data-parallel training does, which the values of a loss over all ranks expect."""
        group = self.loss.process_group
        if ranks(group) == 1:
            return gradients
        # with what is used on any rank, in one reduction
        together = torch.cat([gradients.flatten(), self._used.to(gradients)])
        dist.all_reduce(together, group=group)
        self._used = together[gradients.numel() :].cpu() > 0
        return together[: gradients.numel()].view_as(gradients) / ranks(group)

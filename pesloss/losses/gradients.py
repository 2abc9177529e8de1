"""Gradients term by term, for weights that depend on where they point."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

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

    Each batch takes a backward pass for every term, and the gradients of all terms are held in memory. Under
    ``DistributedDataParallel`` the model is called within ``no_sync``: the average over the ranks is taken
    here, once for all terms and batches.

    Args:
        loss: whose weighting is a :class:`pesloss.weighting.GradientWeighting`.
        parameters: of the model; their ``grad`` is overwritten.
        backward: in place of :meth:`torch.Tensor.backward`, such as that of Lightning or Fabric.

    Raises:
        TypeError: if the weights of the loss do not depend on gradients.
    """

    def __init__(
        self,
        loss: TotalLoss,
        parameters: Iterable[Tensor],
        backward: Callable[..., object] = torch.autograd.backward,
    ) -> None:
        if not isinstance(loss.weighting, GradientWeighting):
            raise TypeError(
                "TermGradients needs a loss whose weighting depends on gradients, such as conflict_free; "
                f"{type(loss.weighting).__name__} needs loss(...).backward() alone."
            )
        self.loss, self.weighting, self.backward = loss, loss.weighting, backward
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._used = torch.zeros(len(self.parameters), dtype=torch.bool)
        self._values: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}

    def add(self, values: Float[Tensor, "terms"], terms: Collection[str] | None = None) -> None:
        """Differentiate the terms of one batch.

        Args:
            values: what ``loss.values`` gives.
            terms: names of those to differentiate, for models whose graph is good for one backward pass (as
                compiled ones): each term then takes a call of its own, with values of its own. By default
                all of them.
        """
        chosen = [*self.loss.terms] if terms is None else [name for name in self.loss.terms if name in terms]
        by_name = dict(zip(self.loss.terms, values.unbind(), strict=True))
        for name in chosen:
            for parameter in self.parameters:
                parameter.grad = None
            self.backward(by_name[name], retain_graph=name != chosen[-1])
            self.take(name, by_name[name])

    def take(self, name: str, value: Float[Tensor, ""]) -> None:
        """Take what stands in ``grad`` for the gradient of one term of one batch, as ``add`` does.

        For whoever differentiates many models at once.

        Args:
            name: of the term.
            value: of the term.
        """
        gradient = self._gradient()
        self._gradients[name] = gradient.add_(self._gradients.get(name, 0))
        self._values[name] = value.detach() + self._values.get(name, 0)

    def combine(self) -> LossOutput:
        """Give every parameter that a term depends on its gradient, Σ weight · gradient.

        Returns:
            values of the whole step with the weights that were found.

        Raises:
            ValueError: if a term was never differentiated.
        """
        if missing := [name for name in self.loss.terms if name not in self._gradients]:
            raise ValueError(f"Terms {missing} have no gradient: add(loss.values(...)) for each batch first.")
        gradients = self._averaged(torch.stack([self._gradients[name] for name in self.loss.terms]))
        exact = gradients.double()
        weights = self.loss.weight * self.weighting.from_gradients(exact @ exact.T)
        combined = weights.to(gradients.dtype) @ gradients
        parts = combined.split([parameter.numel() for parameter in self.parameters])
        for parameter, part, used in zip(self.parameters, parts, self._used.tolist(), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype) if used else None
        values = {name: self._values[name] for name in self.loss.terms}
        together = torch.stack([*values.values()])
        weights = weights.to(together.dtype)
        by_name = dict(zip(values, weights.unbind(), strict=True))
        return LossOutput(torch.dot(weights, together), values, by_name, together.new_zeros(()))

    def _gradient(self) -> Tensor:
        """Gradient by all parameters, in a row."""
        found = [parameter.grad for parameter in self.parameters]
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

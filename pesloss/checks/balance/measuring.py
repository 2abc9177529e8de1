"""Gradients of every term, and what every row adds to them, without leaving a trace in the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from pesloss.checks.balance.counting import counts
from pesloss.checks.balance.groups import Groups
from pesloss.checks.balance.result import Balance, TermBalance
from pesloss.losses import Batch, Predictions, Step, TotalLoss
from pesloss.losses.batch import num_structures
from pesloss.losses.contributions import unobserved
from pesloss.losses.distributed import ranks
from pesloss.losses.formulas import comparison, value_unit
from pesloss.losses.penalties import HuberLike
from pesloss.losses.terms.base import Term
from pesloss.models import Potential
from pesloss.weighting import Fixed, GradientWeighting, Schedule

TOLERANCE = 0.01
"""Share of the gradient by which those of the rows may miss it, in single precision."""


def balance(
    loss: TotalLoss,
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Balance:
    """Shares of each term, and of each group of structures, in a loss and in its gradient.

    The batches count as one optimizer step, on all ranks together: where ranks train together, each has to
    call this with batches of its own, whatever their number. Gradients that parameters hold, random states,
    states and training modes of model and loss stay as they are. Each batch takes a backward pass for each
    term, and one for the groups whose graph is differentiated once more. What was compiled is run as it was
    written.

    Args:
        loss: the loss, as it stands.
        model: called as ``model(batch, names of properties)``, such as a :class:`pesloss.Potential`; its
            parameters require gradients.
        batches: structures and labels, as ``loss.prepare`` gives them.
        groups: names of the groups to tell apart, by the batch's entry with their codes:
            ``{"dataset": [...], "config_type": [...]}``. Elements are told apart anyway.

    Raises:
        ValueError: if there is no batch, or no parameter requires a gradient.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters or not batches:
        missing = "a parameter that requires a gradient" if batches else "at least one batch"
        raise ValueError(f"A balance needs {missing}.")
    with _undisturbed(loss, model):
        measured = _Measured(loss, model, parameters, batches)
        measured.differentiate()
        return measured.result(_groups(measured, groups or {}))


@dataclass
class _Measured:
    """A loss on some batches: values and gradients of its terms, over all ranks."""

    loss: TotalLoss
    model: nn.Module
    parameters: list[nn.Parameter]
    batches: Sequence[Batch]
    values: Tensor = field(init=False)
    gradients: Float[Tensor, "terms parameters"] = field(init=False)
    counted: Float[Tensor, "terms 4"] = field(init=False)

    def __post_init__(self) -> None:
        self.structures, self.step = self._whole()

    def predictions(self, batch: Batch, *, detached: bool = False) -> Predictions:
        """What the model says, to be differentiated unless it is detached."""
        if isinstance(self.model, Potential):
            return self.model(batch, list(self.loss.required), training=not detached)
        return self.model(batch, list(self.loss.required))

    def differentiate(self) -> None:
        """Values and gradients of every term, one backward pass each."""
        terms, size = len(self.loss.by_name), sum(parameter.numel() for parameter in self.parameters)
        self.values = self.parameters[0].new_zeros(terms, dtype=torch.float64)
        self.gradients, self.counted = self.values.new_zeros(terms, size), self.values.new_zeros(terms, 4)
        for batch in self.batches:
            self._add(batch)
        self.values, self.gradients, self.counted = map(
            self.pooled, (self.values, self.gradients, self.counted)
        )

    def gradient(self, value: Tensor) -> Float[Tensor, "parameters"]:
        """Of a number by all parameters, in a row."""
        found: Sequence[Tensor | None] = [None] * len(self.parameters)
        if value.requires_grad:
            found = torch.autograd.grad(value, self.parameters, retain_graph=True, allow_unused=True)
        pairs = zip(found, self.parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten().double() for g, p in pairs])

    def pooled(self, numbers: Tensor) -> Tensor:
        """Sum over the ranks that train together."""
        if self.loss.across_ranks and ranks(self.loss.process_group) > 1:
            dist.all_reduce(numbers, group=self.loss.process_group)
        return numbers

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of the terms as they act, those by which rows are weighted, and the regulariser."""
        weighting, factor = self.loss.weighting, self.loss.weight.double()
        weights, regulariser = weighting(self.values, self.step.labels)
        of_rows = factor * weights.double()
        acting = of_rows
        if isinstance(weighting, GradientWeighting):
            acting = factor * weighting.from_gradients(self.gradients @ self.gradients.T)
        return acting, of_rows, torch.zeros_like(factor) if regulariser is None else factor * regulariser

    def result(self, groups: Groups) -> Balance:
        """Shares of the terms, with those of the groups."""
        weights, _, regulariser = (tensor.detach() for tensor in self.weights())
        pulls = weights[:, None] * self.gradients
        norms, whole = pulls.norm(dim=1), pulls.sum(0)
        products = self.gradients @ self.gradients.T
        lengths = products.diagonal().sqrt()
        shares = weights * self.values
        columns = {
            "value": self.values,
            "configured": self.loss.weighting.prior,
            "weight": weights,
            "share": shares / shares.abs().sum(),
            "gradient_norm": norms,
            "gradient_share": norms / norms.sum(),
            "projection": pulls @ whole / whole.square().sum(),
        }
        rows = torch.stack([column.double() for column in columns.values()], dim=1).tolist()
        return Balance(
            self.structures,
            tuple(
                _term(name, term, dict(zip(columns, row, strict=True)), counted)
                for (name, term), row, counted in zip(
                    self.loss.by_name.items(), rows, self.counted.tolist(), strict=True
                )
            ),
            tuple(map(tuple, (products / (lengths * lengths[:, None])).tolist())),
            groups.shares(float(shares.abs().sum()), float(whole.square().sum())),
            float(regulariser),
            _decided_by(self.loss),
        )

    def _whole(self) -> tuple[int, Step]:
        """Number of structures, and denominators of all batches of all ranks."""
        loss, batches = self.loss, self.batches
        looked = None if loss.linear else [self.predictions(batch, detached=True) for batch in batches]
        step = loss.step(batches, looked)
        numbers = step.counts.new_tensor([sum(map(num_structures, batches)), step.batches])
        parts = [numbers, step.counts, step.labels, *([] if step.sums is None else [step.sums])]
        # counts are exact in float64
        together = self.pooled(torch.cat([part.double() for part in parts]))
        split = together.split([part.shape[0] for part in parts])
        numbers, counts, labels, *sums = (a.to(b.dtype) for a, b in zip(split, parts, strict=True))
        structures, number = map(int, numbers.tolist())
        return structures, Step(counts, labels, number, sums[0] if sums else None)

    def _add(self, batch: Batch) -> None:
        """What one batch contributes; its graph is freed with it."""
        predictions = self.predictions(batch)
        shares = self.loss.values(predictions, batch, self.step)
        self.values += shares.detach()
        for i, share in enumerate(shares.unbind()):
            self.gradients[i] += self.gradient(share)
        weighed, terms = self.loss.weigh(batch), self.loss.by_name.values()
        self.counted += self.counted.new_tensor([counts(term, predictions, weighed) for term in terms])


def _groups(measured: _Measured, names: Mapping[str, Sequence[str]]) -> Groups:
    """What every row adds to the loss and to its gradient, added up by group."""
    loss = measured.loss
    acting, of_rows, _ = (weights.detach() for weights in measured.weights())
    direction = acting @ measured.gradients
    ratios = torch.where(of_rows != 0, acting / of_rows, 0).tolist()
    factors = dict(zip(loss.by_name, ratios, strict=True))
    groups = Groups(names, direction.device)

    def rows(batch: Batch) -> dict[str, Tensor]:
        found = loss.per_row(measured.predictions(batch), batch, measured.step)
        return {name: factors[name] * values for name, values in found.items()}

    for batch in measured.batches:  # nothing holds the graph of a batch beyond its line
        groups.add(batch, *_projected(rows(batch), measured.parameters, direction))
    groups.sums, groups.product = measured.pooled(groups.sums), measured.pooled(groups.product)
    with_rows = [term.of_structures for term in loss.by_name.values()]
    expected = (acting * (measured.gradients @ direction))[with_rows].sum()
    # some functions have a gradient that is silently a constant to who differentiates it again
    if not bool((groups.product - expected).abs() <= TOLERANCE * direction.square().sum()):
        groups.sums[:, 2] = torch.nan
    return groups


def _projected(
    rows: Mapping[str, Tensor], parameters: Sequence[Tensor], direction: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    r"""The rows, detached, and the scalar product of the gradient of each of them with a direction.

    The gradient of :math:`\sum_i u_i c_i` is linear in u, so that its product with the direction,
    differentiated by u, gives :math:`\nabla c_i \cdot d` of every row i at once. NaN for models that cannot
    be differentiated so often.
    """
    detached = {name: values.detach() for name, values in rows.items()}
    ones = {name: torch.ones_like(values, requires_grad=True) for name, values in detached.items()}
    try:
        total = torch.stack([(ones[name] * values).sum() for name, values in rows.items()]).sum()
        found = torch.autograd.grad(total, parameters, create_graph=True, allow_unused=True)
        parts = direction.to(total.dtype).split([parameter.numel() for parameter in parameters])
        pairs = [(g.flatten(), part) for g, part in zip(found, parts, strict=True) if g is not None]
        product = torch.stack([torch.dot(g, part.to(g.dtype)) for g, part in pairs]).sum()
        slopes = torch.autograd.grad(product, list(ones.values()), materialize_grads=True)
    except RuntimeError:
        slopes = [torch.full_like(values, torch.nan) for values in detached.values()]
    return detached, dict(zip(rows, slopes, strict=True))


def _term(name: str, term: Term, numbers: Mapping[str, float], counted: Sequence[float]) -> TermBalance:
    labels, weights, beyond, zoned = counted
    compared = comparison(term)
    penalty = None if compared is None else compared.penalty
    return TermBalance(
        name,
        **{**numbers, "configured": numbers["configured"] / (term.weight or 1.0)},
        unit=value_unit(term),
        labels=int(labels),
        row_weight=weights / labels if labels else 1.0,
        linear=beyond / zoned if zoned else None,
        delta=float(penalty.delta) if isinstance(penalty, HuberLike) else None,
    )


def _decided_by(loss: TotalLoss) -> str:
    if not isinstance(loss.weighting, Fixed | Schedule):
        return "weighting"
    return "targets" if loss.targets else "weights"


@contextmanager
def _undisturbed(loss: TotalLoss, model: nn.Module) -> Iterator[None]:
    """Within it, nothing is kept of what modules see, and compiled ones run as they were written."""
    devices = {parameter.device.index for parameter in model.parameters() if parameter.is_cuda}
    with ExitStack() as stack:
        stack.enter_context(unobserved(loss, model))
        stack.enter_context(torch.random.fork_rng([index for index in devices if index is not None]))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.enable_grad())
        yield

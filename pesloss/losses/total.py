"""The loss: one algebra over terms, exact over ranks and accumulated batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from pesloss.losses.assembly import as_term, close_hubers, prior_weights
from pesloss.losses.batch import Batch, Predictions, num_structures
from pesloss.losses.contributions import Contributions, Rows, shared, unobserved
from pesloss.losses.distributed import ranks, sum_over_ranks
from pesloss.losses.explicit import measured
from pesloss.losses.groups import GroupWeights
from pesloss.losses.properties import Property
from pesloss.losses.reductions import mean
from pesloss.losses.step import Step
from pesloss.losses.targets import Targets, given, weights_of_targets
from pesloss.losses.terms.base import Counts, Term, check_weight
from pesloss.names import part
from pesloss.weighting import WEIGHTINGS, Weighting


class LossOutput(NamedTuple):
    """A loss with its parts: ``total = Σ weights · values + regulariser``.

    Args:
        total: the scalar to differentiate.
        values: value of each term, detached.
        weights: effective weight of each term, detached.
        regulariser: what the weighting adds, detached.
    """

    total: Float[Tensor, ""]
    values: dict[str, Tensor]
    weights: dict[str, Tensor]
    regulariser: Float[Tensor, ""]


class TotalLoss(nn.Module):
    r"""Weighted sum of terms, each a mean over every label of an optimizer step.

    .. math:: \text{total} = w \Big(\sum_t w_t\, \frac{\text{sum}_t}{\text{count}_t} + \text{regulariser}\Big)

    Sums and counts run over all ranks of the process group (in training mode) and over all batches of the
    :class:`Step`, so that the total and its gradients do not depend on how structures are dealt out.
    ``forward`` gives the total, ``evaluate`` the same with the terms by name.

    Ranks talk to each other in every call in training mode: each has to make the same number of them.
    In ``eval()`` they do not.

    Args:
        terms: terms by name, as :class:`Term` or as the arguments of a :class:`PropertyTerm`.
        weights: weights by term, times the terms' own; terms that are not named keep theirs.
            A term of weight 0 is removed, and what it needs is not asked of the model.
        targets: errors to aim at by term, with their unit, in place of weights: ``{"energy": "1 meV/atom",
            "forces": "20 meV/Å"}``; there all of them contribute the same. See
            :func:`pesloss.losses.targets.weights_of_targets`.
        huber_delta: delta of every Huber penalty that was left open, for all or by term,
            in the unit of the term's residual.
        weighting: part or name (``fixed``, ``uncertainty``, ``soft_adapt``, ``conflict_free``).
        weight: weight of the whole loss.
        config_type_weights: weight of structures by their config type.
        dataset_weights: weight of structures by their dataset.
        structure_weight: entry of the batch with further weights of structures, times those in ``weight``.
        normalize: divide the weights of the terms by their sum.
        monitor: count the share of residuals in the linear zone of Huber penalties, see :meth:`monitored`.
        across_ranks: whether sums and counts run over all ranks; without it each rank has means of its own,
            whose average is not the mean where ranks have unequal numbers of labels.
        process_group: ranks that train together; all of them by default.

    Raises:
        ValueError: for names that do not exist, weights that are negative or not finite, targets that no
            weight follows from, a ``huber_delta`` that acts on nothing, and Huber penalties left without one.
    """

    def __init__(
        self,
        terms: Mapping[str, Term | Mapping[str, Any]],
        *,
        weights: Mapping[str, float] | None = None,
        targets: Targets | None = None,
        huber_delta: float | Mapping[str, float] | None = None,
        weighting: Weighting | str = "fixed",
        weight: float = 1.0,
        config_type_weights: Mapping[str, float] | None = None,
        dataset_weights: Mapping[str, float] | None = None,
        structure_weight: str = "weight",
        normalize: bool = False,
        monitor: bool = False,
        across_ranks: bool = True,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        built = {name: as_term(name, term) for name, term in terms.items()}
        prior = prior_weights(built, weights or {})
        self.targets = given(built, prior, targets or {})
        self.terms = nn.ModuleDict({name: term for name, term in built.items() if prior[name] > 0})
        if not self.terms:
            raise ValueError(f"A loss needs a term with a weight that is not 0, got weights {prior}.")
        close_hubers(built, self.terms, huber_delta)
        prior |= weights_of_targets(built, self.targets)
        self.weighting = part("weighting", weighting, Weighting, WEIGHTINGS)
        scale = sum(prior.values()) if normalize else 1.0
        self.weighting.setup(
            {name: prior[name] / scale for name in self.terms}, [name for name in prior if prior[name] == 0]
        )
        self.weight: Tensor
        if check_weight("weight", weight) == 0:
            raise ValueError("A loss of weight 0 asks for nothing and learns nothing; leave it out.")
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float64), persistent=False)
        self._all_means = all(term.is_mean for term in self.by_name.values())
        self.groups = nn.ModuleList(
            GroupWeights(key, group)
            for key, group in (("config_type", config_type_weights), ("dataset", dataset_weights))
            if group
        )
        self.structure_weight = structure_weight
        self.across_ranks = across_ranks
        self.process_group = process_group
        for term in self.by_name.values():
            term.monitor = monitor

    @property
    def by_name(self) -> dict[str, Term]:
        """Terms by name, those of weight 0 left out."""
        return dict(self.terms.items())  # pyright: ignore[reportReturnType]

    @property
    def _terms(self) -> list[Term]:
        return list(self.terms.values())  # pyright: ignore[reportReturnType]

    @property
    def required(self) -> dict[str, Property]:
        """Properties that the model must predict, by name; nothing else needs to be computed."""
        return {name: prop for term in self.by_name.values() for name, prop in term.required.items()}

    @property
    def labels(self) -> dict[str, Property]:
        """Properties that the structures label, by their key in the batch."""
        return {key: prop for term in self.by_name.values() for key, prop in term.labels.items()}

    @property
    def compared(self) -> dict[str, Property]:
        """Properties that are both predicted and labelled under one name: those whose errors can be told."""
        return {name: prop for name, prop in self.required.items() if name in self.labels}

    @property
    def linear(self) -> bool:
        """Whether an accumulated step is known from its labels alone, without its predictions."""
        return all(term.linear for term in self.by_name.values())

    @property
    def group_weights(self) -> dict[str, dict[str, float]]:
        """Weights of groups by name, by the entry of the batch that says who belongs to them."""
        return {group.key: group.by_name for group in self.groups}  # pyright: ignore[reportReturnType]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of what the loss learns: own learning rate, no weight decay."""
        return self.weighting.parameter_groups()

    def forward(self, predictions: Predictions, batch: Batch, step: Step | None = None) -> Float[Tensor, ""]:
        """Scalar to differentiate.

        Args:
            predictions: what the model says, by name of the property.
            batch: structures and their labels.
            step: denominators of the whole optimizer step; without it the batch is the step.
        """
        return self._parts(predictions, batch, step)[0]

    def evaluate(self, predictions: Predictions, batch: Batch, step: Step | None = None) -> LossOutput:
        """The same as ``forward``, with values and weights by name.

        In an accumulated step the values of its batches are shares, which add up to the value of the step.
        """
        total, values, weights, regulariser = self._parts(predictions, batch, step)
        values, weights = values.detach(), weights.detach()
        regulariser = values.new_zeros(()) if regulariser is None else regulariser.detach()
        return LossOutput(total, self._by_name(values), self._by_name(weights), regulariser)

    def values(
        self, predictions: Predictions, batch: Batch, step: Step | None = None
    ) -> Float[Tensor, "terms"]:
        """Values of the terms without their weights, in the order of :attr:`by_name`, to differentiate each.

        In an accumulated step those of a batch are shares, as in ``evaluate``.
        """
        return self._valued(predictions, batch, step)[0]

    def per_row(
        self, predictions: Predictions, batch: Batch, step: Step | None = None
    ) -> dict[str, Float[Tensor, "_"]]:
        """What each row (atom, structure, pair) adds to the total, by the name of the term, to differentiate.

        Terms that look at the model alone have no rows. With fixed weights, gradients of rows add up to that
        of the total; over ranks they add up too, where training averages. Nothing that the loss keeps
        is changed. See :func:`pesloss.losses.contributions.share_of_rows` for terms that are not linear.

        Args:
            predictions: what the model says, by name of the property.
            batch: structures and their labels.
            step: denominators of the whole optimizer step; without it the batch is the step.
        """
        return {name: rows.values for name, rows in self._shared(predictions, batch, step)[0].items()}

    def per_structure(
        self, predictions: Predictions, batch: Batch, step: Step | None = None
    ) -> Contributions:
        """What each structure adds to the total, term by term, detached.

        Contributions and ``rest`` add up to the total exactly; those of an optimizer step over its batches
        and ranks. Arguments are those of :meth:`per_row`.
        """
        terms, rest = self._shared(predictions, batch, step)
        num = num_structures(batch)
        return Contributions({name: rows.by_structure(num) for name, rows in terms.items()}, rest)

    @torch.no_grad()
    def step(self, batches: Iterable[Batch], predictions: Iterable[Predictions] | None = None) -> Step:
        """Denominators of an optimizer step made of several batches, on all ranks.

        Args:
            batches: the batches this rank will accumulate; every rank has the same number of them.
            predictions: what the model says of them, needed by terms that are not linear in the batch.

        Raises:
            ValueError: if there is no batch, or predictions are needed and not given.
        """
        batches = [self.weigh(batch) for batch in batches]
        if not batches:
            raise ValueError("An optimizer step needs at least one batch; it may be one without structures.")
        if predictions is None and not self.linear:
            names = [name for name, term in self.by_name.items() if not term.linear]
            raise ValueError(
                f"Terms {names} are not linear in the batch (a root of a mean): an accumulated step needs "
                "step(batches, predictions). Without accumulation no step is needed."
            )
        counts, labels = map(_sum, zip(*map(self._counts, batches), strict=True))
        if predictions is None:
            counts, labels = self._over_ranks(counts, labels)
            return Step(counts, labels, len(batches))
        sums = _sum([self._sums(made, batch) for made, batch in zip(predictions, batches, strict=True)])
        counts, labels, sums = self._over_ranks(counts, labels, sums)
        return Step(counts, labels, len(batches), sums)

    def prepare(self, batch: Batch) -> Batch:
        """The batch as the model is to see it in training: terms may corrupt it or draw directions."""
        for term in self.by_name.values():
            batch = term.prepare(batch)
        return batch

    def attach(self, model: nn.Module) -> None:
        """Show the model to the terms that look at it, such as penalties of its weights."""
        for term in self.by_name.values():
            term.attach(model)

    @torch.no_grad()
    def pre_fit(self, batches: Iterable[Batch]) -> None:
        """Let the terms that standardise learn their scales from the training structures, all of them.

        Raises:
            ValueError: if these have no label to learn from, or one that nothing can be compared with.
        """
        terms = [term for term in self.by_name.values() if term.needs_fit]
        for batch in batches if terms else []:
            for term in terms:
                term.fit(batch)
        for term in terms:
            term.fitted()

    @torch.no_grad()
    def place(self, *, epoch: int = 0, step: int = 0, learning_rate: float = 1.0) -> None:
        """Say where training stands, before the first optimizer step and before a resumed one.

        Scheduled weights are those of this place; saying it twice changes nothing.

        Args:
            epoch: completed epochs.
            step: completed optimizer steps.
            learning_rate: of the next step, relative to that of the first.
        """
        self.weighting.advance(epoch=epoch, step=step, learning_rate=learning_rate)

    @torch.no_grad()
    def advance(self, *, epoch: int = 0, step: int = 0, learning_rate: float = 1.0) -> None:
        """Say that an optimizer step is over, and where training stands now, as :meth:`place` does.

        Adaptive penalties and random draws move on here and nowhere else, so that all batches of a step see
        the same loss. Every rank has to call it.
        """
        for term in self.by_name.values():
            term.advance(self._pool)
        self.place(epoch=epoch, step=step, learning_rate=learning_rate)

    def monitored(self) -> dict[str, Tensor]:
        """Numbers worth a look besides the values, of the last complete step, as ``<term>/<number>``."""
        return {
            f"{name}/{key}": value
            for name, term in self.by_name.items()
            for key, value in term.monitored().items()
        }

    def _pool(self, values: Tensor) -> Tensor:
        return self._over_ranks(values)[0]

    def _parts(
        self, predictions: Predictions, batch: Batch, step: Step | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        values, step = self._valued(predictions, batch, step)
        weights, regulariser = self._weighted(values, step)
        total = torch.dot(weights, values)
        if regulariser is not None:
            total = total + regulariser
        return total, values, weights, regulariser

    def _weighted(self, values: Tensor, step: Step) -> tuple[Tensor, Tensor | None]:
        """Effective weights of the terms, and a batch's share of the regulariser."""
        weights, regulariser = self.weighting(values, step.labels)
        if regulariser is not None:
            regulariser = (self.weight / step.batches * regulariser).to(values.dtype)
        return self.weight * weights, regulariser

    def _valued(self, predictions: Predictions, batch: Batch, step: Step | None) -> tuple[Tensor, Step]:
        batch = self.weigh(batch)
        if step is None:
            counts, labels, sums = self._over_ranks(*self._measured(predictions, batch))
            step = Step(counts, labels, 1, sums)
        else:
            (sums,) = self._over_ranks(self._sums(predictions, batch))
        return self._values(sums, step), step

    def _shared(
        self, predictions: Predictions, batch: Batch, step: Step | None
    ) -> tuple[dict[str, Rows], Tensor]:
        """What each row of each term adds to the total, and this rank's share of what is of no row."""
        batch = self.weigh(batch)
        with unobserved(self.terms, self.weighting):
            parts = [term.by_row(predictions, batch) for term in self._terms]
            sums = torch.cat([part.sums.detach() for part in parts])
            if step is None:
                counts, labels, sums = self._over_ranks(*self._counts(batch), sums)
                step = Step(counts, labels, 1, sums)
            else:
                (sums,) = self._over_ranks(sums)
            weights, regulariser = self._weighted(self._values(sums, step), step)
        step = step._replace(sums=(sums if step.sums is None else step.sums).to(sums.dtype))
        rows, rest = shared(self.by_name, parts, weights.detach(), step, step.batches * self._num_ranks)
        return rows, rest if regulariser is None else rest + regulariser.detach() / self._num_ranks

    def _by_name(self, values: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.terms, values.unbind(), strict=True))

    def weigh(self, batch: Batch) -> Batch:
        """The batch with all weights of a structure in ``weight``: its own and those of its groups."""
        if not self.groups and self.structure_weight == "weight":
            return batch
        keys = dict.fromkeys(("weight", self.structure_weight))
        factors = [batch[key] for key in keys if key in batch] + [group(batch) for group in self.groups]
        rest = {key: batch[key] for key in batch.keys() if key != "weight"}  # noqa: SIM118, hosts' batches
        return {**rest, "weight": reduce(torch.mul, factors)} if factors else rest

    def _sums(self, predictions: Predictions, batch: Batch) -> Tensor:
        return measured(self._terms, predictions, batch)[0]

    def _counts(self, batch: Batch) -> Counts:
        counts, labels = zip(*(term.count(batch) for term in self.by_name.values()), strict=True)
        return Counts(torch.cat(counts), torch.stack(labels))

    def _measured(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Counts, labels and sums of all terms."""
        sums, counted = measured(self._terms, predictions, batch)
        counts, labels = zip(*counted, strict=True)
        return torch.cat(counts), torch.stack(labels), sums

    @property
    def _num_ranks(self) -> int:
        """How many ranks sums and counts run over."""
        return ranks(self.process_group) if self.training and self.across_ranks else 1

    def _over_ranks(self, *parts: Tensor) -> list[Tensor]:
        if self._num_ranks == 1:
            return list(parts)
        # one reduction for everything, in float64, which holds every count exactly
        together = sum_over_ranks(torch.cat([part.double() for part in parts]), self.process_group)
        split = together.split([part.shape[0] for part in parts])
        return [summed.to(part.dtype) for summed, part in zip(split, parts, strict=True)]

    def _values(self, sums: Tensor, step: Step) -> Tensor:
        """Values of the terms; of a batch in an accumulated step, shares that add up to those of the step."""
        if step.sums is None and not self.linear:
            raise ValueError("This step was made without predictions, which its terms need; see step().")
        if self._all_means:  # one division for all terms
            return mean(sums, step.counts)
        terms = list(self.by_name.values())
        channels = [term.channels for term in terms]
        shares, counts = sums.split(channels), step.counts.to(sums.dtype).split(channels)
        whole = shares
        if step.sums is not None and step.sums is not sums:
            whole = step.sums.to(sums.dtype).split(channels)
        return torch.stack(
            [
                _share(term, term_sums, term_counts, term_whole, step.batches)
                for term, term_sums, term_counts, term_whole in zip(terms, shares, counts, whole, strict=True)
            ]
        )


def _share(term: Term, sums: Tensor, counts: Tensor, whole: Tensor, batches: int) -> Tensor:
    if term.linear or sums is whole:
        return term.value(sums, counts)
    # the tangent at the sums of the whole step adds up to its value and to its gradient
    rise = (term.slope(whole, counts) * (sums - whole / batches)).sum()
    return term.value(whole, counts) / batches + rise


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)

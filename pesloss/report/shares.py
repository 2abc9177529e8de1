"""What structures cost a loss, where it is known only at the end by what each term is divided."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pesloss.losses import PropertyTerm, Step, Term, TotalLoss
from pesloss.losses.batch import Batch, Predictions, num_structures
from pesloss.losses.contributions import shared, unobserved
from pesloss.losses.distributed import ranks, sum_over_ranks
from pesloss.losses.properties import Property
from pesloss.losses.terms.base import RowSums
from pesloss.training.metrics import compared_per_atom


class Shares:
    """Sums of structures and of all of them, from which what each adds to the loss follows in the end.

    Terms take part that compare a label with one of the predictions at hand. Without a loss, or if it has no
    such term, mean squared errors do, the sum of each property for an equal part.

    Args:
        loss: what was minimised, where the predictions are; it is not changed.
        properties: what is predicted, by name.
    """

    def __init__(self, loss: TotalLoss | None, properties: Mapping[str, Property]) -> None:
        found = {} if loss is None else {n: t for n, t in loss.by_name.items() if _is_told(t, properties)}
        self._loss = loss if found else None
        self.terms: Mapping[str, Term] = found or {name: _squared(prop) for name, prop in properties.items()}
        self.failed: set[str] = set()
        self._channels = [term.channels for term in self.terms.values()]
        device = None if loss is None else loss.weight.device
        self._sums = torch.zeros(sum(self._channels), dtype=torch.float64, device=device)
        self._counts, self._labels = torch.zeros_like(self._sums), self._sums.new_zeros(len(self.terms))
        self.num = 0

    @property
    def of(self) -> str:
        """What the shares are of, in words."""
        if self._loss is None:
            return "the squared errors, each property for an equal part"
        rest = [name for name in self._loss.by_name if name not in self.terms or name in self.failed]
        return f"the loss without {', '.join(rest)}" if rest else "the loss"

    @torch.no_grad()
    def add(self, predictions: Predictions, batch: Batch) -> Float64[Tensor, "structures channels"]:
        """Count a batch in; what each of its structures adds to the sums, on the host."""
        batch = batch if self._loss is None else self._loss.weigh(batch)
        self.num += num_structures(batch)
        columns = [self._measured(i, name, predictions, batch) for i, name in enumerate(self.terms)]
        return torch.cat(columns, dim=1).cpu()

    def pool(self) -> None:
        """Count what all ranks have seen."""
        if ranks() > 1:
            parts = [self._sums, self._counts, self._labels, self._sums.new_tensor([self.num])]
            together = sum_over_ranks(torch.cat(parts)).split([len(part) for part in parts])
            self._sums, self._counts, self._labels, self.num = *together[:3], int(together[3])

    @torch.no_grad()
    def of_structures(
        self, sums: Float64[Tensor, "structures channels"]
    ) -> dict[str, Float[Tensor, "structures"]]:
        """What structures add to each term that has a label, by what they add to the sums."""
        weights, sums = self._weights(), sums.to(self._sums.device)
        step = Step(self._counts, self._labels, 1, self._sums)
        parts = [
            RowSums(whole, rows, torch.arange(len(rows), device=rows.device))
            for whole, rows in zip(
                self._sums.split(self._channels), sums.split(self._channels, dim=1), strict=True
            )
        ]
        found, _ = shared(self.terms, parts, weights, step, 1)
        labelled = dict(zip(self.terms, (self._labels > 0).tolist(), strict=True))
        return {name: rows.values.cpu() for name, rows in found.items() if labelled[name]}

    def total(self) -> float:
        """What all structures add together."""
        return float(sum(value.sum() for value in self.of_structures(self._sums[None]).values()))

    def _measured(self, place: int, name: str, predictions: Predictions, batch: Batch) -> Tensor:
        """What each structure adds to the sums of one term; nothing if it cannot be told."""
        term, num = self.terms[name], num_structures(batch)
        nothing = torch.zeros(num, term.channels, dtype=torch.float64, device=batch["ptr"].device)
        if name in self.failed:
            return nothing
        try:
            with unobserved(term):
                part, counted = term.by_row(predictions, batch), term.count(batch)
        except (KeyError, ValueError):  # data may lack what a term reads besides labels
            self.failed.add(name)
            return nothing
        rows = nothing.index_add(0, part.structure, part.rows.double())
        sums, finite = part.sums.double(), rows.isfinite().all(1, keepdim=True)
        # one prediction that is not finite leaves the shares of the others what they are
        sums = torch.where(sums.isfinite(), sums, torch.where(finite, rows, 0).sum(0))
        own = slice(sum(self._channels[:place]), sum(self._channels[: place + 1]))
        self._sums[own] += sums
        self._counts[own] += counted.counts
        self._labels[place] += counted.labels
        return rows

    def _weights(self) -> Float64[Tensor, "terms"]:
        """Effective weights of the terms, for what has been seen."""
        numbers = zip(self._sums.split(self._channels), self._counts.split(self._channels), strict=True)
        values = {
            name: term.value(*pair) for (name, term), pair in zip(self.terms.items(), numbers, strict=True)
        }
        if self._loss is None:
            inverse = [torch.where(value > 0, 1 / value, 0) for value in values.values()]
            return torch.stack(inverse)
        zero = self._sums.new_zeros(())
        labels = dict(zip(self.terms, self._labels, strict=True))
        with unobserved(self._loss.weighting):
            weights, _ = self._loss.weighting(
                torch.stack([values.get(name, zero) for name in self._loss.terms]),
                torch.stack([labels.get(name, zero) for name in self._loss.terms]),
            )
        by_name = dict(zip(self._loss.terms, (self._loss.weight * weights).unbind(), strict=True))
        return torch.stack([by_name[name] for name in self.terms])


def _is_told(term: Term, properties: Mapping[str, Property]) -> bool:
    """Whether a term compares labels with some of the predictions."""
    return bool(term.labels) and {*term.required} <= {*properties}


def _squared(prop: Property) -> Term:
    residual = "per_atom" if compared_per_atom(prop) else "difference"
    return PropertyTerm(prop, residual="modulo_quantum" if prop.name == "polarization" else residual)

"""Predictions that are next to nothing, or point against their labels: of one structure, or of many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from pesloss.losses.batch import (
    Batch,
    Predictions,
    flat_rows,
    num_structures,
    structure_of_row,
    sum_over_atoms,
)
from pesloss.losses.distributed import ranks, sum_over_ranks
from pesloss.losses.properties import Property
from pesloss.training.metrics import compared, on_branch

NEAR_ZERO = 1e-3
"""A prediction of less than this share of its label, both as root mean squares over a structure, is none."""
OPPOSITE = -0.5
"""Cosine of all labels and predictions of a structure below which these point the other way."""
SIMILAR = 2.0
"""Factor by which a prediction of the opposite sign may be longer or shorter than its label."""
ENOUGH = 3
"""Components a structure needs for a direction; a single number has either sign half of the time."""
NEGLIGIBLE = 1e-2
"""Labels of less than this share of the root mean square of all are noise, whose sign says nothing."""
FEWEST, SYSTEMATIC = 5, 0.02
"""Number and share of the structures from which on a flag says something of all of them."""
DIRECTED = 0.8
"""Share of the squared labels that predictions must point along or against before many of the latter are a
matter of signs: a model that has learned nothing points anywhere."""
GRADES = 160
"""Places of a table of magnitudes, two a decade of the mean square, 1 in the middle."""


class Likeness(NamedTuple):
    """How predictions of each structure look beside their labels.

    Args:
        grade: order of magnitude of the labels, as a place in a table of ``GRADES``.
        labels: number of labelled components.
        size: sum of the squared labels.
        zero: whether next to nothing is predicted where the label is something.
        flipped: whether the prediction is about minus the label.
        aligned: whether it points where the label does.
    """

    grade: Int64[Tensor, "structures"]
    labels: Float64[Tensor, "structures"]
    size: Float64[Tensor, "structures"]
    zero: Bool[Tensor, "structures"]
    flipped: Bool[Tensor, "structures"]
    aligned: Bool[Tensor, "structures"]

    def flag(self, structure: int) -> str:
        """What is wrong with the prediction of a structure, in words; none if nothing is."""
        return (
            "zero prediction" if self.zero[structure] else "sign flipped" if self.flipped[structure] else ""
        )


def likeness(prop: Property, predictions: Tensor, batch: Batch) -> Likeness:
    """Compare signs and magnitudes of what has a label, structure by structure."""
    label = compared(prop, batch[prop.name], batch)
    known = ~label.isnan()
    found = torch.where(known, compared(prop, on_branch(prop, predictions, batch), batch), 0.0)
    label = torch.where(known, label, 0.0)
    parts = [flat_rows(each).sum(1) for each in (label * found, found**2, label**2, known.double())]
    owner = structure_of_row(batch, prop.rows, len(label))
    sums = sum_over_atoms(torch.stack(parts, dim=1), owner, num_structures(batch))
    product, predicted, size, labels = sums.unbind(1)
    lengths = (predicted * size).sqrt()
    cosine = product / torch.where(lengths > 0, lengths, 1)
    directed = labels >= ENOUGH
    similar = (predicted * SIMILAR**2 >= size) & (predicted <= SIMILAR**2 * size)
    nothing = (predicted <= NEAR_ZERO**2 * size) & (size > 0)
    return Likeness(
        _grade(size / labels.clamp(min=1)),
        labels,
        size,
        nothing & (directed | (predicted == 0)),
        directed & similar & (cosine < OPPOSITE),
        directed & (cosine > -OPPOSITE),
    )


class Signs:
    """Counts structures whose predictions are next to nothing, or of the opposite sign.

    What labels are too small to tell is known once all were seen, so that counts are kept by magnitude.

    Args:
        properties: what is compared, by name.
    """

    def __init__(self, properties: Mapping[str, Property]) -> None:
        self._properties = dict(properties)
        # structures, components, squared labels, zeros, flipped ones, squared labels of directed, of flipped
        self._tables = {name: torch.zeros(GRADES, 7, dtype=torch.float64) for name in properties}

    def add(self, predictions: Predictions, batch: Batch) -> dict[str, Likeness]:
        """Count a batch in, and say how each of its structures looks, on the host."""
        found = {}
        for name, prop in self._properties.items():
            if name in batch:
                like = Likeness(*(part.cpu() for part in likeness(prop, predictions[name], batch)))
                directed = like.size * (like.flipped | like.aligned)
                against = like.size * like.flipped
                numbers = [like.size > 0, like.labels, like.size, like.zero, like.flipped, directed, against]
                rows = torch.stack([number.double() for number in numbers], dim=1)
                self._tables[name].index_add_(0, like.grade, rows)
                found[name] = like
        return found

    def pool(self) -> None:
        """Count the structures of all ranks."""
        if ranks() > 1 and self._tables:
            together = sum_over_ranks(torch.stack([*self._tables.values()]))
            self._tables = dict(zip(self._tables, together, strict=True))

    def tells(self, name: str, grade: int) -> bool:
        """Whether labels of this magnitude are more than noise."""
        table = self._tables[name].sum(0)
        mean_square = table[2] / table[1].clamp(min=1)
        return grade >= int(_grade(NEGLIGIBLE**2 * mean_square))

    def sentences(self) -> Iterator[str]:
        """What is so of many structures that it is no matter of single ones."""
        for name, table in self._tables.items():
            told = torch.tensor([self.tells(name, grade) for grade in range(GRADES)])
            num, _, size, zeros, flipped, directed, against = table[told].sum(0).tolist()
            many = max(FEWEST, SYSTEMATIC * num)
            if zeros >= many:
                yield (
                    f"{int(zeros)} of {int(num)} structures have {name} that are predicted to be almost zero "
                    "where the label is not: look at what they have in common."
                )
            if flipped >= many and directed >= DIRECTED * size and against >= SYSTEMATIC * size:
                yield (
                    f"{int(flipped)} of {int(num)} structures have {name} of the opposite sign: where they "
                    f"come from one file, its labels may be of the other sign, data.signs.{name}=-1."
                )


def _grade(mean_square: Float64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Place of a magnitude in a table of them."""
    logarithm = mean_square.clamp(min=torch.finfo(torch.float64).tiny).log10()
    return (2 * logarithm + GRADES // 2).floor().clamp(0, GRADES - 1).long()

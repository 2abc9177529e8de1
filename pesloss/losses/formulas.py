"""A loss in words and symbols."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pesloss.losses.total import TotalLoss


class Formula(NamedTuple):
    """One summand of a loss.

    Args:
        name: of the term.
        weight: as it stands, and how it changes.
        value: what is minimised.
        unit: of what is compared with the label.
        labels: entries of the batch that it reads.
    """

    name: str
    weight: str
    value: str
    unit: str
    labels: str


def formulas(loss: TotalLoss) -> list[Formula]:
    """Every term of a loss with its weight, in words and symbols."""
    return [
        Formula(name, loss.weighting.formula(name), term.formula(), term.unit(), ", ".join(term.labels))
        for name, term in loss.by_name.items()
    ]


def remarks(loss: TotalLoss) -> Iterator[str]:
    """What acts on all terms."""
    if float(loss.weight) != 1:
        yield f"The whole loss is multiplied by {float(loss.weight):g}."
    for key, weights in loss.group_weights.items():
        listed = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        yield f"w is multiplied by a structure's {key}: {listed}, else 1."
    if loss.structure_weight != "weight":
        yield f"w is multiplied by '{loss.structure_weight}' of a structure."
    if not loss.across_ranks:
        yield "Each rank has means of its own."

"""A loss in words and symbols, and what its weights would be in another's words."""

from __future__ import annotations

from collections.abc import Iterator
from math import log2
from typing import NamedTuple

import torch

from pesloss.losses.penalties import HuberLike, L2Norm, Penalty, SquaredNorm
from pesloss.losses.reductions import RootMean, Sum
from pesloss.losses.residuals import Difference, PerAtom
from pesloss.losses.targets import cost_at
from pesloss.losses.terms.base import Term
from pesloss.losses.terms.property import PropertyTerm
from pesloss.losses.terms.restated import Restated
from pesloss.losses.total import TotalLoss

POWERS = {1.0: "", 0.5: "^½", 2.0: "²"}


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
        Formula(name, _weight(loss, name), term.formula(), term.unit(), ", ".join(term.labels))
        for name, term in loss.by_name.items()
    ]


def remarks(loss: TotalLoss) -> Iterator[str]:
    """What acts on all terms."""
    if loss.targets:
        name, target = next(iter(loss.targets.items()))
        prior = float(loss.weighting.prior[loss.weighting.names.index(name)])
        cost = float(loss.weight) * prior * cost_at(name, loss.by_name[name], target)
        yield f"With its errors at their target, a term contributes {cost:.3g} to the loss."
    if float(loss.weight) != 1:
        yield f"The whole loss is multiplied by {float(loss.weight):g}."
    for key, weights in loss.group_weights.items():
        listed = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        yield f"w is multiplied by a structure's {key}: {listed}, else 1."
    if loss.structure_weight != "weight":
        yield f"w is multiplied by '{loss.structure_weight}' of a structure."
    if not loss.across_ranks:
        yield "Each rank has means of its own."


def conversions(loss: TotalLoss, atoms: float | None = None) -> Iterator[str]:
    """What weights of these terms are in losses that are written in other ways, where that is often confused.

    Args:
        loss: the loss.
        atoms: mean number of atoms of the structures, if it is known.
    """
    for name, term in loss.by_name.items():
        term = comparison(term)
        if term is not None:
            yield from (f"{name}: {said}" for said in _conversions(term, atoms))


def value_unit(term: Term) -> str:
    """Unit of the value of a term, ``(eV/Å)²`` of a mean squared error; none where it is not known."""
    compared = comparison(term)
    if compared is None or not (unit := compared.unit()):
        return ""
    power = degree(compared.penalty) / (2 if isinstance(compared.reduction, RootMean) else 1)
    if power not in POWERS:
        return ""
    return f"{unit if power == 1 or unit.isalpha() else f'({unit})'}{POWERS[power]}"


def comparison(term: Term) -> PropertyTerm | None:
    """The term that compares a prediction with a label, where that is what a term does."""
    compared = term.term if isinstance(term, Restated) else term
    return compared if isinstance(compared, PropertyTerm) else None


def degree(penalty: Penalty) -> float:
    """Power of its unit in which a penalty is: 2 of a squared error and of Huber's, 1 of an absolute one."""
    small = torch.full((1, 1), 1e-9, dtype=torch.float64)
    label = torch.zeros_like(small)
    # near zero a penalty is a power of the residual
    power = log2(float(penalty(2 * small, label)) / float(penalty(small, label)))
    return round(power, 3) - float(isinstance(penalty, HuberLike) and penalty.scale)


def _weight(loss: TotalLoss, name: str) -> str:
    weight, target = loss.weighting.formula(name), loss.targets.get(name)
    return weight if target is None else f"{weight}; from the target {target}"


def _conversions(term: PropertyTerm, atoms: float | None) -> Iterator[str]:
    power = degree(term.penalty)
    if term.property.extensive and power > 0:
        yield from _of_totals(term, round(power), atoms)
    if isinstance(term.penalty, HuberLike) and not term.penalty.open:
        yield _of_huber(float(term.penalty.delta), term.penalty.scale)
    if term.entry == (3, 3) and not term.per_row:
        yield (
            "the mean is over 9 components, so that shear counts twice; with residual: voigt, over 6, the "
            "same weight acts 3/2 as much on a pressure and 3/4 as much on a shear."
        )
    if len(term.entry) == 1 and term.entry != (6,):
        yield from _of_norms(term)
    if isinstance(term.reduction, Sum):
        yield "a sum, which grows with the batch: weight times number of labelled components makes it a mean."


def _of_totals(term: PropertyTerm, power: int, atoms: float | None) -> Iterator[str]:
    factor = f"N{POWERS.get(power, '')}"
    number = "" if atoms is None else f" (about {atoms**power:.3g} for {atoms:.3g} atoms)"
    huber = isinstance(term.penalty, HuberLike)
    if isinstance(term.residual, PerAtom) and term.residual.exponent == 1:
        delta = " and a δ times N" if huber else ""
        yield f"of errors per atom; the same of total errors has its weight over {factor}{number}{delta}."
    elif isinstance(term.residual, Difference):
        delta = " and a δ over N" if huber else ""
        yield f"of total errors; the same of errors per atom has its weight times {factor}{number}{delta}."


def _of_huber(delta: float, scale: bool) -> str:
    near, far = (0.5 / delta, 1.0) if scale else (0.5, delta)
    return (
        f"below δ = {delta:g} this is {near:g} times the squared error, "
        f"far beyond it pulls like {far:g} times the absolute one."
    )


def _of_norms(term: PropertyTerm) -> Iterator[str]:
    num = term.entry[0]
    if isinstance(term.penalty, SquaredNorm):
        yield f"components are summed: {num} times the mean squared error of components."
    if isinstance(term.penalty, L2Norm) and num == 3:
        yield "lengths: of errors alike in all directions, twice the mean absolute error of components."

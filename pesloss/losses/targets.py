"""Weights from the errors that a training aims at: at its target, every term costs the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any, TypeAlias

import torch

from pesloss.losses.batch import Batch
from pesloss.losses.reductions import Entries
from pesloss.losses.terms.base import Term
from pesloss.losses.terms.property import PropertyTerm
from pesloss.losses.terms.restated import Restated
from pesloss.names import unknown
from pesloss.units import Unit, as_unit

Targets: TypeAlias = Mapping[str, "str | float | None"]

_NUMBER = re.compile(r"\s*\d+(?:\.\d*)?(?:[eE][+-]?\d+)?")


def weights_of_targets(terms: Mapping[str, Term], targets: Mapping[str, str | float]) -> dict[str, float]:
    r"""Weights that make every term contribute the same when its errors are at their target.

    .. math:: w_t \propto \frac{1}{L_t(\sigma_t)}, \qquad \min_t w_t = 1

    with :math:`L_t(\sigma_t)` the value of the term if every component of its residual is
    :math:`\sigma_t`: σ² for a squared penalty, σ for an absolute one, √3 σ for the length of a force. Only
    ratios of weights matter to Adam; the common factor keeps gradients at the size that clipping and Adam's
    epsilon expect.

    Args:
        terms: by name.
        targets: errors such as ``20 meV/Å``, in any unit of the residual's dimension; plain numbers where
            the residual has no unit.

    Raises:
        ValueError: for a target that cannot be read, is not positive or of another dimension, and for a
            term that has no residual, or whose value is not a mean.
    """
    costs = {name: cost_at(name, terms[name], target) for name, target in targets.items()}
    largest = max(costs.values(), default=1.0)
    return {name: largest / cost for name, cost in costs.items()}


def cost_at(name: str, term: Term, target: str | float) -> float:
    """Value of a term all of whose residuals are at the target.

    Raises:
        ValueError: as in :func:`weights_of_targets`.
    """
    compared = term.term if isinstance(term, Restated) else term
    if not isinstance(compared, PropertyTerm):
        raise ValueError(
            f"targets.{name}: a {type(term).__name__} has no residual that could have a target; "
            "give the term a weight."
        )
    error = _error(name, compared.unit(), target)
    one, more = (_value(compared, error, batch) for batch in _PROBES)
    if abs(one - more) > 1e-6 * abs(one):
        raise ValueError(
            f"targets.{name}: the value of the term depends on how many labels or atoms there are "
            f"({compared.reduction}), so that a target does not fix its weight; give the term a weight."
        )
    if not one > 0:
        raise ValueError(f"targets.{name}: an error of {target!r} costs nothing; give the term a weight.")
    return one


def given(
    terms: Mapping[str, Term], weights: Mapping[str, float], targets: Targets
) -> dict[str, str | float]:
    """Targets that are not null, if they say all there is to say of the weights.

    Args:
        terms: by name.
        weights: as configured, the terms' own included.
        targets: by name; null for none.

    Raises:
        ValueError: for a term that does not exist, has a weight besides, or has no target where others do.
    """
    found = {name: target for name, target in targets.items() if target is not None}
    for name in found:
        if name not in terms:
            raise ValueError(f"targets: {unknown('term', name, terms)}")
        if weights[name] == 0:
            raise ValueError(f"targets.{name}: the term is removed by its weight of 0; drop one of the two.")
        if weights[name] != 1:
            raise ValueError(
                f"Term '{name}' has a target and a weight of {weights[name]:g}, which would both decide its "
                f"weight: set weights.{name}=1 or drop the target."
            )
    for name, term in terms.items() if found else ():
        if name not in found and weights[name] == 1 and isinstance(term, PropertyTerm | Restated):
            raise ValueError(
                f"Terms {[*found]} have targets, but '{name}' has none: give it one too, or a weight "
                f"other than 1 (weights.{name}=0 removes it)."
            )
    return found


def _error(name: str, unit: str, target: str | float) -> float:
    """A target in the unit of the residual."""
    number = not isinstance(target, str) or _NUMBER.fullmatch(target.strip()) is not None
    if isinstance(target, bool) or (number and unit):
        example = f"0.01 {unit}".strip()
        raise ValueError(f"targets.{name} needs an error with its unit, such as '{example}'; got {target!r}.")
    if isinstance(target, str) and not _NUMBER.match(target):
        raise ValueError(f"targets.{name} begins with a number, such as '0.01 {unit}'; got {target!r}.")
    error = float(target) if number else _converted(name, unit, str(target))
    if not (isfinite(error) and error > 0):
        raise ValueError(f"targets.{name} must be a finite error above 0, got {target!r}.")
    return error


def _converted(name: str, unit: str, target: str) -> float:
    number = _NUMBER.match(target)
    assert number is not None
    if target[number.end() :].strip() == unit:
        return float(number[0])
    try:
        asked, residual = as_unit(target), as_unit(unit)
    except ValueError as error:
        raise ValueError(f"targets.{name}: {error}") from None
    if asked.powers != residual.powers:
        raise ValueError(
            f"targets.{name}: '{target}' is of the dimension {asked.dimension}, but the residual of this "
            f"term is in {unit or 'no unit'} ({residual.dimension}); give for example "
            f"'{_like(target, asked, residual, unit)}'."
        )
    return asked.factor / residual.factor


def _like(target: str, asked: Unit, residual: Unit, unit: str) -> str:
    """What may have been meant."""
    if (asked * as_unit("1/atom")).powers == residual.powers:
        return f"{target}/atom"
    if (asked * as_unit("atom")).powers == residual.powers and target.endswith("/atom"):
        return target.removesuffix("/atom")
    return f"0.01 {unit}".strip()


def _value(term: PropertyTerm, error: float, batch: Batch) -> float:
    """Value of a term over some structures if every component of its residual is the error."""
    rows = {"structure": len(batch["ptr"]) - 1, "atom": int(batch["ptr"][-1])}
    num = rows.get(term.property.rows, int(batch["ptr"].diff().square().sum()))
    residual = torch.full((num, *term.entry), error, dtype=torch.float64)
    costs = term.penalty(residual, torch.zeros(num, *term.property.shape, dtype=torch.float64))
    labelled, weights = torch.ones_like(costs, dtype=torch.bool), None
    if term.components is not None:
        weights = term.components[None].double()
        costs = costs * weights
    entries = Entries(labelled, weights, term.property.rows, batch)
    return float(term.reduction.value(term.reduction(costs, entries), term.reduction.count(entries)))


def _probe(*sizes: int) -> dict[str, Any]:
    counts = torch.tensor(sizes)
    groups = torch.zeros(len(sizes), dtype=torch.long)
    return {
        "ptr": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        "batch": torch.repeat_interleave(torch.arange(len(sizes)), counts),
        "numbers": torch.arange(1, int(counts.sum()) + 1),
        "config_type": groups,
        "dataset": groups,
    }


_PROBES = (_probe(1), _probe(2, 2))

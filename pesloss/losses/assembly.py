"""From what a config gives to the parts of a loss: terms, their weights, the deltas that were left open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from pesloss.arguments import check_arguments
from pesloss.losses.penalties import HuberLike
from pesloss.losses.terms.base import Term, check_weight
from pesloss.losses.terms.property import PropertyTerm
from pesloss.names import unknown


def as_term(name: str, term: Term | Mapping[str, Any]) -> Term:
    """A term, as it is or from the arguments of a :class:`PropertyTerm`.

    Raises:
        ValueError: if the name is no word.
        TypeError: if it is neither.
    """
    if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict, name):
        raise ValueError(
            f"A term's name is a word without a dot and no method of a dictionary, got {name!r}."
        )
    if isinstance(term, Term):
        return term
    if isinstance(term, Mapping):
        arguments = {"property": name, **term}
        check_arguments(PropertyTerm, arguments, f"term '{name}'")
        return PropertyTerm(**arguments)
    raise TypeError(f"Term '{name}' must be a Term or the arguments of a PropertyTerm, got {term!r}.")


def prior_weights(terms: Mapping[str, Term], weights: Mapping[str, float]) -> dict[str, float]:
    """Weights of the terms, their own times those that a loss is given.

    Raises:
        ValueError: for names that do not exist, and weights that are negative or not finite.
    """
    for name in weights:
        if name not in terms:
            raise ValueError(f"weights: {unknown('term', name, terms)}")
    return {
        name: check_weight(f"weights.{name}", weights.get(name, 1.0)) * term.weight
        for name, term in terms.items()
    }


def close_hubers(
    terms: Mapping[str, Term], active: nn.ModuleDict, delta: float | Mapping[str, float] | None
) -> None:
    """Give every Huber penalty that was left open its delta.

    Raises:
        ValueError: for names that do not exist, a delta that acts on nothing, and penalties left without one.
    """
    left_open = {name: _open_hubers(term) for name, term in terms.items() if _open_hubers(term)}
    deltas = delta if isinstance(delta, Mapping) else dict.fromkeys(left_open, delta)
    for name in deltas:
        if name not in left_open:
            raise ValueError(f"huber_delta: {unknown('term with an open Huber penalty', name, left_open)}")
    if delta is not None and not left_open:
        raise ValueError(f"huber_delta={delta} acts on nothing: no term has a Huber penalty without a delta.")
    for name, penalties in left_open.items():
        value = deltas.get(name)
        if value is not None:
            _close(name, penalties, value)
        elif name in active:
            raise ValueError(
                f"Term '{name}' has a Huber penalty without a delta; give huber_delta to the loss."
            )


def _close(name: str, penalties: Iterable[HuberLike], delta: float) -> None:
    for penalty in penalties:
        if not penalty.open and float(penalty.delta) != delta:
            raise ValueError(
                f"Terms share a Huber penalty that has delta {float(penalty.delta)} already, but '{name}' "
                f"asks for {delta}; give each term its own."
            )
        penalty.set_delta(delta)


def _open_hubers(term: Term) -> list[HuberLike]:
    return [module for module in term.modules() if isinstance(module, HuberLike) and module.open]

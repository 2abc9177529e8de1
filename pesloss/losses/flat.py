"""Terms from flat lists, one entry a term, as TACE writes its losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from pesloss.losses.penalties import Absolute, Huber, L2Norm, Penalty, Squared
from pesloss.losses.properties import PROPERTIES, Property
from pesloss.losses.terms.base import Term
from pesloss.losses.terms.property import PropertyTerm
from pesloss.names import unknown

Delta: TypeAlias = float | Sequence[float | None] | None
FunctionKwargs: TypeAlias = Sequence[Mapping[str, Any] | None] | None

PENALTIES: Mapping[str, type[Penalty]] = {
    "mse": Squared,
    "mae": Absolute,
    "huber": Huber,
    "l2mae": L2Norm,
}
DELTA = 0.01


def flat_terms(
    properties: Sequence[str] | None,
    functions: Sequence[str] | None,
    weights: Sequence[float] | None = None,
    huber_delta: Delta = None,
    function_kwargs: FunctionKwargs = None,
) -> dict[str, Term] | None:
    """Terms by name, ``None`` if no list is given.

    A term is named after its property, or after its function where a property has several.

    Args:
        properties: property of each term.
        functions: ``{mse, mae, huber, l2mae}_[voigt_]<property>[_per_atom]`` of each term.
        weights: weight of each term, 1 by default.
        huber_delta: delta of the Huber terms, one number or one a term; 0.01 by default.
        function_kwargs: the same in the newer spelling, ``{huber_delta: ...}`` for each term.

    Raises:
        TypeError: if only one of ``properties`` and ``functions`` is given, or deltas without them.
        ValueError: for lists of different lengths, unknown names, functions that are not of their property.
    """
    if properties is None and functions is None and weights is None:
        if huber_delta is not None or function_kwargs is not None:
            raise TypeError("loss_huber_delta and loss_function_kwargs go with flat lists; use huber_delta.")
        return None
    if properties is None or functions is None:
        raise TypeError("The flat lists need both 'loss_property' and 'loss_function_name'.")
    weights = [1.0] * len(functions) if weights is None else weights
    deltas = _deltas(huber_delta, function_kwargs, len(functions))
    _check_lengths(properties, functions, weights, deltas)
    repeated = Counter(properties)
    names = [
        prop if repeated[prop] == 1 else function
        for prop, function in zip(properties, functions, strict=True)
    ]
    terms = map(_term, properties, functions, weights, deltas)
    return dict(zip(names, terms, strict=True))


def _deltas(huber_delta: Delta, function_kwargs: FunctionKwargs, num: int) -> Sequence[float | None]:
    if function_kwargs is None:
        if huber_delta is None or isinstance(huber_delta, (int, float)):
            return [DELTA if huber_delta is None else huber_delta] * num
        return huber_delta
    if huber_delta is not None:
        raise TypeError("Give 'loss_huber_delta' or 'loss_function_kwargs', not both.")
    for kwargs in function_kwargs:
        for name in kwargs or {}:
            if name != "huber_delta":
                raise ValueError(f"loss_function_kwargs: {unknown('argument', name, ['huber_delta'])}")
    return [(kwargs or {}).get("huber_delta", DELTA) for kwargs in function_kwargs]


def _check_lengths(
    properties: Sequence[str],
    functions: Sequence[str],
    weights: Sequence[float],
    deltas: Sequence[float | None],
) -> None:
    lengths = {
        "loss_property": len(properties),
        "loss_function_name": len(functions),
        "loss_property_weights": len(weights),
        "loss_huber_delta": len(deltas),
    }
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(
            f"The flat lists need one entry a term, got lengths {listed}; name a property again for each."
        )
    for function, times in Counter(functions).items():
        if times > 1:
            raise ValueError(f"loss_function_name '{function}' is there twice; add up the weights instead.")


def _term(prop: str, function: str, weight: float, delta: float | None) -> PropertyTerm:
    name, _, rest = function.partition("_")
    if name not in PENALTIES:
        raise ValueError(f"loss_function_name '{function}': {unknown('penalty', name, PENALTIES)}")
    per_atom, voigt = rest.endswith("_per_atom"), rest.startswith("voigt_")
    if per_atom and voigt:
        raise ValueError(
            f"loss_function_name '{function}' is both voigt and per atom, two residuals; choose one of them."
        )
    target = rest.removeprefix("voigt_").removesuffix("_per_atom")
    if target != prop:
        raise ValueError(
            f"loss_function_name '{function}' is of '{target}', but stands at loss_property '{prop}'."
        )
    return PropertyTerm(
        _property(target),
        residual="voigt" if voigt else "per_atom" if per_atom else "difference",
        penalty=Huber(delta) if name == "huber" else PENALTIES[name](),
        weight=weight,
    )


def _property(target: str) -> Property:
    """The property under the key that TACE gives it."""
    base = target.removeprefix("direct_").removeprefix("conservative_")
    base = "virial" if base == "virials" else base
    if base not in PROPERTIES:
        raise ValueError(unknown("property", target, PROPERTIES))
    return replace(PROPERTIES[base], name=target)

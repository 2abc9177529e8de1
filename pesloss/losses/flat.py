"""Terms from flat lists, one entry a term, as TACE writes its losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from pesloss.arguments import fits
from pesloss.losses.penalties import Absolute, ConditionalHuber, Huber, HuberLike, L2Norm, Penalty, Squared
from pesloss.losses.properties import PROPERTIES, Property
from pesloss.losses.residuals import ModuloQuantum, Residual
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
CONDITIONAL = "conditional_huber_"
DELTA = 0.01
NAMES: Mapping[str, str] = {
    "virials": "virial",
    "final_collinear_magmoms": "magnetic_moments",
    "abs_final_collinear_magmoms": "magnetic_moments",
    "final_noncollinear_magmoms": "noncollinear_magnetic_moments",
    "collinear_magnetic_forces": "magnetic_forces",
    "total_collinear_magmom": "total_magnetic_moment",
    "total_noncollinear_magmom": "noncollinear_total_magnetic_moment",
}
"""Properties by TACE's names, where ours are others."""


@dataclass(frozen=True)
class FlatTerm:
    """One entry of the lists.

    Args:
        property: under the key that TACE gives it.
        penalty: class of the penalty.
        residual: name of the residual.
        per_atom: whether the residual is divided by the number of atoms.
        weight: of the term.
        delta: of a Huber penalty.
    """

    property: Property
    penalty: type[Penalty]
    residual: str = "difference"
    per_atom: bool = False
    weight: float = 1.0
    delta: float | None = None

    def build(self) -> PropertyTerm:
        """The term."""
        penalty = self.penalty(self.delta) if issubclass(self.penalty, HuberLike) else self.penalty()
        return PropertyTerm(self.property, residual=self._residual(), penalty=penalty, weight=self.weight)

    def _residual(self) -> Residual | str:
        return ModuloQuantum(per_atom=self.per_atom) if self.residual == "modulo_quantum" else self.residual


def flat_terms(
    properties: Sequence[str] | None,
    functions: Sequence[str] | None,
    weights: Sequence[float] | None = None,
    huber_delta: Delta = None,
    function_kwargs: FunctionKwargs = None,
) -> dict[str, Term] | None:
    """Terms by name, ``None`` if no list is given; see :func:`flat_entries`.

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
    entries = flat_entries(properties, functions, weights, huber_delta, function_kwargs)
    return {name: entry.build() for name, entry in entries.items()}


def flat_entries(
    properties: Sequence[str],
    functions: Sequence[str],
    weights: Sequence[float] | None = None,
    huber_delta: Delta = None,
    function_kwargs: FunctionKwargs = None,
) -> dict[str, FlatTerm]:
    """Entries of the lists by name of their term.

    A term is named after its property, or after its function where a property has several.

    Args:
        properties: property of each term.
        functions: ``{mse, mae, huber, l2mae}_[voigt_]<property>[_per_atom]`` of each term, or
            ``conditional_huber_forces``.
        weights: weight of each term, 1 by default.
        huber_delta: delta of the Huber terms, one number or one a term; 0.01 by default.
        function_kwargs: the same in the newer spelling, ``{huber_delta: ...}`` for each term.

    Raises:
        TypeError: for deltas in both spellings.
        ValueError: for lists of different lengths, unknown names, functions that are not of their property.
    """
    weights = [1.0] * len(functions) if weights is None else weights
    deltas = _deltas(huber_delta, function_kwargs, functions)
    _check_lengths(properties, functions, weights, deltas)
    repeated = Counter(properties)
    names = [
        prop if repeated[prop] == 1 else function
        for prop, function in zip(properties, functions, strict=True)
    ]
    entries = map(_entry, properties, functions, weights, deltas)
    return dict(zip(names, entries, strict=True))


def property_of(function: str) -> str:
    """Property that a function compares, as its name says."""
    rest = function.removeprefix(CONDITIONAL)
    rest = rest if rest != function else function.partition("_")[2]
    return rest.removeprefix("voigt_").removesuffix("_per_atom")


def _deltas(
    huber_delta: Delta, function_kwargs: FunctionKwargs, functions: Sequence[str]
) -> Sequence[float | None]:
    if function_kwargs is None:
        if huber_delta is None or isinstance(huber_delta, (int, float)):
            return [DELTA if huber_delta is None else huber_delta] * len(functions)
        return huber_delta
    if huber_delta is not None:
        raise TypeError("Give 'loss_huber_delta' or 'loss_function_kwargs', not both.")
    for function, kwargs in zip(functions, function_kwargs, strict=False):
        _check_kwargs(function, kwargs or {})
    return [(kwargs or {}).get("huber_delta", DELTA) for kwargs in function_kwargs]


def _check_kwargs(function: str, kwargs: Mapping[str, Any]) -> None:
    for name in kwargs:
        if name == "element_weights":
            raise ValueError(
                f"loss_function_kwargs of '{function}': element_weights are weights of atoms; give them in "
                "the batch, 'atom_weight' [atoms], or as reduction 'per_element' with coefficients."
            )
        if name != "huber_delta" or "huber" not in function:
            known = ["huber_delta"] if "huber" in function else []
            raise ValueError(f"loss_function_kwargs of '{function}': {unknown('argument', name, known)}")
        if not fits(kwargs[name], float):
            raise ValueError(
                f"loss_function_kwargs of '{function}': {name} must be a number, got {kwargs[name]!r}."
            )


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


def _entry(prop: str, function: str, weight: float, delta: float | None) -> FlatTerm:
    name, _, rest = function.partition("_")
    if not function.startswith(CONDITIONAL) and name not in PENALTIES:
        raise ValueError(f"loss_function_name '{function}': {unknown('penalty', name, PENALTIES)}")
    per_atom, voigt = rest.endswith("_per_atom"), rest.startswith("voigt_")
    if per_atom and voigt:
        raise ValueError(
            f"loss_function_name '{function}' is both voigt and per atom, two residuals; choose one of them."
        )
    target = property_of(function)
    if target != prop:
        raise ValueError(
            f"loss_function_name '{function}' is of '{target}', but stands at loss_property '{prop}'."
        )
    residual = "voigt" if voigt else "per_atom" if per_atom else "difference"
    return FlatTerm(
        _property(target),
        penalty=ConditionalHuber if function.startswith(CONDITIONAL) else PENALTIES[name],
        residual="modulo_quantum" if target == "polarization" else residual,
        per_atom=per_atom,
        weight=weight,
        delta=delta if "huber" in function else None,
    )


def _property(target: str) -> Property:
    """The property under the key that TACE gives it."""
    base = target.removeprefix("direct_").removeprefix("conservative_")
    base = NAMES.get(base, base)
    if base not in PROPERTIES:
        raise ValueError(unknown("property", target, [*PROPERTIES, *NAMES]))
    return replace(PROPERTIES[base], name=target)

"""The two front ends: a loss with configured weights and one that learns them."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from pesloss.losses.penalties import Absolute, Huber, L2Norm, Penalty, Squared
from pesloss.losses.properties import PROPERTIES, Property
from pesloss.losses.terms.base import Term
from pesloss.losses.terms.property import PropertyTerm
from pesloss.losses.total import TotalLoss
from pesloss.names import unknown
from pesloss.weighting import Uncertainty
from pesloss.weighting.uncertainty import Form

Terms: TypeAlias = Mapping[str, Term | Mapping[str, Any]]
Delta: TypeAlias = float | Sequence[float | None] | None


class NormalLoss(TotalLoss):
    r"""Weighted sum of mean penalties with the weights as configured: :math:`\sum_t w_t L_t`.

    Takes the arguments of :class:`TotalLoss`, or the flat lists that TACE uses, one entry a term:
    ``loss_function_name`` is ``{mse, mae, huber, l2mae}_[voigt_]<property>[_per_atom]``.
    With flat lists the weight of a structure is the batch's ``entropy``, as there.

    Args:
        terms: see :class:`TotalLoss`.
        loss_property: property of each term.
        loss_function_name: penalty and property of each term, in TACE's spelling.
        loss_property_weights: weight of each term.
        loss_huber_delta: delta of the Huber terms, one number or one a term, in the residual's unit.
        normalize: divide the weights by their sum.
        options: other arguments of :class:`TotalLoss`.

    Raises:
        ValueError: for lists of different lengths, a function that is not of its property, an unknown name.
        TypeError: if both or neither of ``terms`` and the flat lists are given, or for an unknown argument.
    """

    def __init__(
        self,
        terms: Terms | None = None,
        *,
        loss_property: Sequence[str] | None = None,
        loss_function_name: Sequence[str] | None = None,
        loss_property_weights: Sequence[float] | None = None,
        loss_huber_delta: Delta = 0.01,
        normalize: bool = False,
        **options: Any,
    ) -> None:
        flat = _flat(loss_property, loss_function_name, loss_property_weights, loss_huber_delta, terms)
        super().__init__(**_options(terms, flat, options))
        if normalize:
            self.weight /= self.weighting.prior.sum()


class UncertaintyLoss(TotalLoss):
    r"""Loss that learns the weight of each term as the inverse variance of its errors.

    See :class:`pesloss.weighting.Uncertainty` for the three forms. The configured weights are those of the
    first step. Hand :meth:`parameter_groups` to the optimizer: the log-variances have a learning rate of
    their own and no weight decay.

    Args:
        terms: see :class:`TotalLoss`; or the flat lists of :class:`NormalLoss`.
        loss_property: property of each term.
        loss_function_name: penalty and property of each term, in TACE's spelling.
        loss_property_weights: first weight of each term.
        loss_huber_delta: delta of the Huber terms.
        form: ``likelihood``, ``kendall`` or ``tace``.
        bounds: range of the log-variances.
        learning_rate: learning rate of the log-variances.
        options: other arguments of :class:`TotalLoss`.

    Raises:
        ValueError: as in :class:`NormalLoss` and :class:`pesloss.weighting.Uncertainty`.
        TypeError: as in :class:`NormalLoss`.

    References:
        A. Kendall, Y. Gal, R. Cipolla, CVPR 2018 (arXiv 1705.07115), eq. 7.
    """

    def __init__(
        self,
        terms: Terms | None = None,
        *,
        loss_property: Sequence[str] | None = None,
        loss_function_name: Sequence[str] | None = None,
        loss_property_weights: Sequence[float] | None = None,
        loss_huber_delta: Delta = 0.01,
        form: Form = "likelihood",
        bounds: Sequence[float] = (-25.0, 25.0),
        learning_rate: float | None = 0.01,
        **options: Any,
    ) -> None:
        flat = _flat(loss_property, loss_function_name, loss_property_weights, loss_huber_delta, terms)
        if "weighting" in options:
            raise TypeError("UncertaintyLoss is a weighting already; use NormalLoss with another weighting.")
        weighting = Uncertainty(form, bounds=bounds, learning_rate=learning_rate)
        super().__init__(**_options(terms, flat, {**options, "weighting": weighting}))


def _options(terms: Terms | None, flat: Terms | None, options: Mapping[str, Any]) -> dict[str, Any]:
    known = inspect.signature(TotalLoss).parameters
    for name in options:
        if name not in known:
            raise TypeError(unknown("argument", name, known))
    chosen = terms if flat is None else flat
    if chosen is None:
        raise TypeError("Give 'terms', or the flat lists 'loss_property' and 'loss_function_name'.")
    return {"structure_weight": "weight" if flat is None else "entropy", **options, "terms": chosen}


def _flat(
    properties: Sequence[str] | None,
    functions: Sequence[str] | None,
    weights: Sequence[float] | None,
    deltas: Delta,
    terms: Terms | None,
) -> Terms | None:
    """Terms from TACE's lists, ``None`` if they are not used."""
    if properties is None and functions is None and weights is None:
        return None
    if terms is not None:
        raise TypeError(
            "Give either 'terms' or the flat lists 'loss_property', 'loss_function_name', ..., not both."
        )
    if properties is None or functions is None:
        raise TypeError("The flat lists need both 'loss_property' and 'loss_function_name'.")
    weights = [1.0] * len(functions) if weights is None else weights
    deltas = [deltas] * len(functions) if deltas is None or isinstance(deltas, (int, float)) else deltas
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
    repeated = Counter(properties)
    for function, times in Counter(functions).items():
        if times > 1:
            raise ValueError(f"loss_function_name '{function}' is there twice; add up the weights instead.")
    return {
        (prop if repeated[prop] == 1 else function): _flat_term(prop, function, weight, delta)
        for prop, function, weight, delta in zip(properties, functions, weights, deltas, strict=True)
    }


def _flat_term(prop: str, function: str, weight: float, delta: float | None) -> PropertyTerm:
    name, _, rest = function.partition("_")
    if name not in FLAT_PENALTIES:
        raise ValueError(f"loss_function_name '{function}': {unknown('penalty', name, FLAT_PENALTIES)}")
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
        _flat_property(target),
        residual="voigt" if voigt else "per_atom" if per_atom else "difference",
        penalty=_flat_penalty(name, delta),
        weight=weight,
    )


def _flat_penalty(name: str, delta: float | None) -> Penalty:
    return Huber(delta) if name == "huber" else FLAT_PENALTIES[name]()


def _flat_property(target: str) -> Property:
    """The property under the key that TACE gives it."""
    base = target.removeprefix("direct_").removeprefix("conservative_")
    base = "virial" if base == "virials" else base
    if base not in PROPERTIES:
        raise ValueError(unknown("property", target, PROPERTIES))
    return replace(PROPERTIES[base], name=target)


FLAT_PENALTIES: Mapping[str, type[Penalty]] = {
    "mse": Squared,
    "mae": Absolute,
    "huber": Huber,
    "l2mae": L2Norm,
}

"""The two front ends: a loss with configured weights and one that learns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pesloss.arguments import check_arguments
from pesloss.losses.flat import Delta, FunctionKwargs, flat_terms
from pesloss.losses.terms.base import Term
from pesloss.losses.total import TotalLoss
from pesloss.weighting import Uncertainty
from pesloss.weighting.uncertainty import Form

Terms: TypeAlias = Mapping[str, Term | Mapping[str, Any]]


class NormalLoss(TotalLoss):
    r"""Weighted sum of mean penalties with the weights as configured: :math:`\sum_t w_t L_t`.

    Takes the arguments of :class:`TotalLoss`, or the flat lists that TACE uses, one entry a term:
    ``loss_function_name`` is ``{mse, mae, huber, l2mae}_[voigt_]<property>[_per_atom]``.
    With flat lists the weight of a structure is the batch's ``entropy``, as there, times its ``weight``.

    Args:
        terms: see :class:`TotalLoss`.
        loss_property: property of each term.
        loss_function_name: penalty and property of each term, in TACE's spelling.
        loss_property_weights: weight of each term.
        loss_huber_delta: delta of the Huber terms, one number or one a term, in the residual's unit.
        loss_function_kwargs: the same in TACE's newer spelling, ``{huber_delta: ...}`` a term.
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
        loss_huber_delta: Delta = None,
        loss_function_kwargs: FunctionKwargs = None,
        **options: Any,
    ) -> None:
        lists = (loss_property, loss_function_name, loss_property_weights)
        flat = flat_terms(*lists, loss_huber_delta, loss_function_kwargs)
        super().__init__(**_options(terms, flat, options))


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
        loss_function_kwargs: the same in TACE's newer spelling.
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
        loss_huber_delta: Delta = None,
        loss_function_kwargs: FunctionKwargs = None,
        form: Form = "likelihood",
        bounds: Sequence[float] = (-25.0, 25.0),
        learning_rate: float | None = 0.01,
        **options: Any,
    ) -> None:
        if "weighting" in options:
            raise TypeError("UncertaintyLoss is a weighting already; use NormalLoss with another weighting.")
        lists = (loss_property, loss_function_name, loss_property_weights)
        flat = flat_terms(*lists, loss_huber_delta, loss_function_kwargs)
        weighting = Uncertainty(form, bounds=bounds, learning_rate=learning_rate)
        super().__init__(**_options(terms, flat, {**options, "weighting": weighting}))


def _options(terms: Terms | None, flat: Terms | None, options: Mapping[str, Any]) -> dict[str, Any]:
    check_arguments(TotalLoss, {"terms": {}, **options})
    if terms is None and flat is None:
        raise TypeError("Give 'terms', or the flat lists 'loss_property' and 'loss_function_name'.")
    if terms is not None and flat is not None:
        raise TypeError("Give either 'terms' or the flat lists 'loss_property', ..., not both.")
    if flat is not None:
        return {"structure_weight": "entropy", **options, "terms": flat}
    return {**options, "terms": terms}

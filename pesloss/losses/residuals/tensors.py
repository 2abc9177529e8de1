"""Symmetric tensors: six numbers of them, or their trace."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor

from pesloss.losses.batch import Batch
from pesloss.losses.properties import Property
from pesloss.losses.residuals.base import Residual, Shape
from pesloss.losses.voigt import VOIGT_ASE, voigt_order
from pesloss.names import unknown

SHEAR_FACTORS: Mapping[str, float] = {"entries": 1.0, "doubled": 2.0, "mandel": sqrt(2.0)}
SHEAR_SYMBOLS: Mapping[str, str] = {"entries": "", "doubled": "2", "mandel": "√2"}
TRIANGLES = ("mean", "upper", "lower")


class Voigt(Residual):
    r"""Difference of symmetric tensors as six numbers, xx, yy, zz, yz, xz, xy.

    The off-diagonal entries are times 1 (``entries``), 2 (``doubled``, the engineering convention) or √2
    (``mandel``, whose squared norm is that of the full tensor).

    Args:
        shear: the convention of the off-diagonal entries.
        order: order of the six numbers, or ``ase`` or ``vasp``.
        triangle: which off-diagonal entries are read: the ``mean`` of both triangles, the ``upper`` one
            (yz in row y) or the ``lower`` one.

    Raises:
        ValueError: for an unknown convention, order or triangle, or a property whose entries are not 3×3.

    References:
        Mandel's convention: J. Mandel, Int. J. Solids Struct. 1, 273 (1965).
    """

    def __init__(self, shear: str = "entries", order: str = VOIGT_ASE, triangle: str = "mean") -> None:
        super().__init__()
        if shear not in SHEAR_FACTORS:
            raise ValueError(unknown("shear convention", shear, SHEAR_FACTORS))
        if triangle not in TRIANGLES:
            raise ValueError(unknown("triangle", triangle, TRIANGLES))
        self.shear, self.order, self.triangle = shear, voigt_order(order), triangle
        places = [("xyz".index(i), "xyz".index(j)) for i, j in self.order.split()]
        self.upper: Tensor
        self.lower: Tensor
        self.factors: Tensor
        self.register_buffer("upper", torch.tensor([3 * i + j for i, j in places]), persistent=False)
        self.register_buffer("lower", torch.tensor([3 * j + i for i, j in places]), persistent=False)
        factors = [1.0 if i == j else SHEAR_FACTORS[shear] for i, j in places]
        self.register_buffer("factors", torch.tensor(factors, dtype=torch.float64), persistent=False)

    def entry_shape(self, prop: Property) -> Shape:
        _check_tensor("voigt", prop)
        return (6,)

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        difference = (prediction - label).flatten(-2)
        six = difference.index_select(-1, self.lower if self.triangle == "lower" else self.upper)
        if self.triangle == "mean":
            six = 0.5 * (six + difference.index_select(-1, self.lower))
        return six if self.shear == "entries" else six * self.factors.to(six.dtype)

    def adjoint(self, slope: Tensor, batch: Batch) -> Tensor:
        six = slope if self.shear == "entries" else slope * self.factors.to(slope.dtype)
        nine = six.new_zeros(six.shape[0], 9)
        if self.triangle != "mean":
            nine.index_add_(1, self.upper if self.triangle == "upper" else self.lower, six)
        else:
            nine.index_add_(1, self.upper, 0.5 * six).index_add_(1, self.lower, 0.5 * six)
        return nine.unflatten(1, (3, 3))

    def labelled(self, label: Tensor) -> Tensor:
        known = super().labelled(label).flatten(-2)
        if self.triangle != "mean":
            return known.index_select(-1, self.upper if self.triangle == "upper" else self.lower)
        return known.index_select(-1, self.upper) & known.index_select(-1, self.lower)

    def component_names(self, prop: Property) -> list[str]:
        return self.order.split()

    def formula(self, name: str) -> str:
        six = [f"{'' if i == j else SHEAR_SYMBOLS[self.shear]}{i}{j}" for i, j in self.order.split()]
        of = {"mean": f"½(Δ{name} + Δ{name}ᵀ)"}.get(self.triangle, f"Δ{name} ({self.triangle} triangle)")
        return f"({', '.join(six)}) of {of}"

    def extra_repr(self) -> str:
        return f"shear={self.shear}, order={self.order}, triangle={self.triangle}"


class Trace(Residual):
    r"""A third of the trace of the difference of two tensors: of a stress, the pressure alone.

    .. math:: \tfrac13 \sum_c (\text{prediction} - \text{label})_{cc}

    Raises:
        ValueError: for a property whose entries are not 3×3.
    """

    def entry_shape(self, prop: Property) -> Shape:
        _check_tensor("trace", prop)
        return ()

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        return (prediction - label).diagonal(dim1=-2, dim2=-1).sum(-1) / 3

    def labelled(self, label: Tensor) -> Tensor:
        return super().labelled(label).diagonal(dim1=-2, dim2=-1).all(-1)

    def formula(self, name: str) -> str:
        return f"tr(Δ{name}) / 3"


def _check_tensor(residual: str, prop: Property) -> None:
    if prop.shape != (3, 3):
        raise ValueError(
            f"'{prop.name}' has entries of shape {prop.shape}; residual '{residual}' needs (3, 3)."
        )

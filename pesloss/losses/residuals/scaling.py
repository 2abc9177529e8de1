"""Residuals in another unit: in one's own, in that of the label's size, or in standard deviations."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from pesloss.losses.batch import Batch, flat_rows, spread_rows
from pesloss.losses.elements import NUMBERS, atomic_number
from pesloss.losses.properties import Property
from pesloss.losses.residuals.base import Residual, Shape
from pesloss.names import part, unknown

RELATIVE_TO = ("row", "entry")
STANDARDS = ("all", "element")


class Relative(Residual):
    r"""Difference relative to the label, so that small forces have to be as right as large ones.

    .. math:: (\text{prediction} - \text{label}) / (\|\text{label}\| + c)

    Args:
        offset: c, the size below which errors are absolute, in the property's unit.
        of: the size of the whole ``row`` (of a force, its length), or of each ``entry``.

    Raises:
        ValueError: if ``offset`` is not positive, or ``of`` unknown.
    """

    scaled_by_label = True

    def __init__(self, offset: float = 1.0, of: str = "row") -> None:
        super().__init__()
        if isinstance(offset, (str, bool)) or not 0 < offset < float("inf"):
            raise ValueError(f"Relative needs a finite offset > 0 in the property's unit, got {offset!r}.")
        if of not in RELATIVE_TO:
            raise ValueError(f"of: {unknown('size', of, RELATIVE_TO)}")
        self.offset, self.of = offset, of

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        size = label.abs()
        if self.of == "row":
            size = spread_rows(torch.linalg.vector_norm(flat_rows(label), dim=1), label.dim() - 1)
        return (prediction - label) / (size + self.offset)

    def formula(self, name: str) -> str:
        size = "‖label‖" if self.of == "row" else "|label|"
        return f"Δ{name} / ({size} + {self.offset:g})"

    def unit(self, unit: str) -> str:
        return ""

    def extra_repr(self) -> str:
        return f"offset={self.offset:g}, of={self.of}"


class Wrapped(Residual):
    """A residual times a number.

    Args:
        residual: the residual, part or name.
    """

    def __init__(self, residual: Residual | str) -> None:
        from pesloss.losses.residuals import RESIDUALS  # the table these stand in

        super().__init__()
        self.inner = part("residual", residual, Residual, RESIDUALS)
        self.scaled_by_label, self.linear = self.inner.scaled_by_label, self.inner.linear

    def entry_shape(self, prop: Property) -> Shape:
        return self.inner.entry_shape(prop)

    def component_names(self, prop: Property) -> list[str]:
        return self.inner.component_names(prop)

    @property
    def has_adjoint(self) -> bool:
        return super().has_adjoint and self.inner.has_adjoint

    def labelled(self, label: Tensor) -> Tensor:
        return self.inner.labelled(label)

    def check(self, label: Tensor, batch: Batch) -> None:
        self.inner.check(label, batch)

    @property
    def needs_fit(self) -> bool:
        return self.inner.needs_fit

    def fit(self, label: Tensor, batch: Batch) -> None:
        self.inner.fit(label, batch)

    def fitted(self) -> None:
        self.inner.fitted()


class Scaled(Wrapped):
    """Residual times a number: in another unit, such as a stress in kbar.

    Args:
        residual: the residual, part or name.
        factor: the number.
        name_of_unit: unit of the product; that of the residual over ``factor`` by default.

    Raises:
        ValueError: if ``factor`` is not a finite number other than 0.
    """

    def __init__(
        self, residual: Residual | str = "difference", *, factor: float, name_of_unit: str | None = None
    ) -> None:
        super().__init__(residual)
        if isinstance(factor, (str, bool)) or not isfinite(factor) or factor == 0:
            raise ValueError(f"Scaled needs a finite factor that is not 0, got {factor!r}.")
        self.factor, self.name_of_unit = factor, name_of_unit

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        return self.factor * self.inner(prediction, label, batch)

    def adjoint(self, slope: Tensor, batch: Batch) -> Tensor | None:
        return self.inner.adjoint(self.factor * slope, batch)

    def formula(self, name: str) -> str:
        return f"{self.factor:g} · [{self.inner.formula(name)}]"

    def unit(self, unit: str) -> str:
        inner = self.inner.unit(unit)
        return f"{inner}/{self.factor:g}" if self.name_of_unit is None else self.name_of_unit

    def extra_repr(self) -> str:
        return f"factor={self.factor:g}"


class Standardized(Wrapped):
    r"""Residual in standard deviations: over the root mean square of what a prediction of 0 would leave.

    .. math:: r / \sigma, \qquad \sigma^2 = \frac1n \sum_i r(0, \text{label}_i)^2

    over all components of the training labels, or of the atoms of each element. Fitted numbers are state:
    they are saved, and a checkpoint brings them back. An element without a label, or all of whose labels are
    zero, keeps σ = 1: nothing says what its scale is.

    Args:
        residual: the residual, part or name.
        scale: σ, or by element; ``None`` fits it to the training labels.
        by: one σ for ``all`` atoms, or one for each ``element``.

    Raises:
        ValueError: for a σ that is not positive, or not given by element where it is to be; an unknown
            element or ``by``; structures by element; no label to fit to; and if used before it is fitted.
        KeyError: if the batch has no ``numbers`` to tell elements by.
    """

    def __init__(
        self,
        residual: Residual | str = "difference",
        scale: float | Mapping[str, float] | None = None,
        by: str = "all",
    ) -> None:
        super().__init__(residual)
        if by not in STANDARDS:
            raise ValueError(f"by: {unknown('choice', by, STANDARDS)}")
        if scale is not None and isinstance(scale, Mapping) != (by == "element"):
            raise ValueError(f"by='{by}' needs {_WANTED[by]}, got scale={scale!r}.")
        self.by, self.open = by, scale is None
        self.sigma: Tensor
        self.register_buffer("sigma", _sigma(scale, by), persistent=self.open)
        self.register_load_state_dict_post_hook(_loaded)
        self._sums: Tensor | None = None

    @property
    def needs_fit(self) -> bool:
        return self.open or self.inner.needs_fit

    def entry_shape(self, prop: Property) -> Shape:
        if self.by == "element" and prop.rows != "atom":
            raise ValueError(f"Only atoms have an element, but '{prop.name}' has one row a {prop.rows}.")
        return super().entry_shape(prop)

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        if self.open:
            raise ValueError(
                "Residual 'standardized' has no σ yet: fit it to training labels, or give its scale."
            )
        return self._divided(self.inner(prediction, label, batch), batch)

    def adjoint(self, slope: Tensor, batch: Batch) -> Tensor | None:
        return self.inner.adjoint(self._divided(slope, batch), batch)

    @torch.no_grad()
    def fit(self, label: Tensor, batch: Batch) -> None:
        if self.inner.needs_fit:
            raise ValueError("A residual inside 'standardized' that needs a fit itself: give its scale.")
        known = self.inner.labelled(label)
        filled = torch.where(label.isnan(), 0, label).double()
        residual = torch.where(known, self.inner(torch.zeros_like(filled), filled, batch), 0)
        rows = torch.stack([flat_rows(residual.square()).sum(1), flat_rows(known.double()).sum(1)])
        bins = _numbers(batch) if self.by == "element" else rows.new_zeros(rows.shape[1], dtype=torch.long)
        sums = rows.new_zeros(2, self.sigma.numel()).index_add(1, bins, rows)
        self._sums = sums if self._sums is None else self._sums + sums

    def fitted(self) -> None:
        if self._sums is None or not bool((self._sums[1] > 0).any()):
            raise ValueError("Residual 'standardized' found no label to fit its σ to; give scale.")
        squares, counts = self._sums
        sigma = torch.where(squares > 0, squares / counts, 1).sqrt()
        self.sigma.copy_(sigma.reshape(self.sigma.shape))
        self.open, self._sums = False, None

    def formula(self, name: str) -> str:
        return f"[{self.inner.formula(name)}] / σ, σ = {self._shown}"

    def unit(self, unit: str) -> str:
        return ""

    def extra_repr(self) -> str:
        return f"sigma={self._shown}, by={self.by}"

    def _divided(self, residual: Tensor, batch: Batch) -> Tensor:
        sigma = self.sigma.to(residual.dtype)
        if self.by == "element":
            sigma = spread_rows(sigma[_numbers(batch)], residual.dim() - 1)
        return residual / sigma

    @property
    def _shown(self) -> str:
        if self.open:
            return "to be fitted"
        if self.by == "all":
            return f"{self.sigma.item():g}"
        from ase.data import chemical_symbols

        named = [(chemical_symbols[z], s) for z, s in enumerate(self.sigma.tolist()) if s != 1]
        return f"({', '.join(f'{symbol}: {s:g}' for symbol, s in named)}) by element"


_WANTED = {"all": "one number", "element": "{element: number}"}


def _sigma(scale: float | Mapping[str, float] | None, by: str) -> Float[Tensor, "*bins"]:
    numbers = scale if isinstance(scale, Mapping) else {} if scale is None else {"σ": scale}
    for name, value in numbers.items():
        if isinstance(value, (str, bool)) or not 0 < value < float("inf"):
            raise ValueError(f"Standardized needs a finite scale > 0, got {value!r} for {name}.")
    if by == "all":
        return torch.tensor(float("nan") if scale is None else scale, dtype=torch.float64)
    sigma = torch.full((NUMBERS,), float("nan") if scale is None else 1.0, dtype=torch.float64)
    for element, value in numbers.items():
        sigma[atomic_number(element)] = value
    return sigma


def _loaded(module: Standardized, keys: object) -> None:
    """A σ that came with a checkpoint needs no fit."""
    module.open = bool(module.sigma.isnan().any())


def _numbers(batch: Batch) -> Tensor:
    if "numbers" not in batch:
        raise KeyError(f"Residual 'standardized' by element needs 'numbers' [atoms]; found {sorted(batch)}.")
    return batch["numbers"]

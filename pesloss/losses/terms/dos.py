"""Densities of states: spectra whose zero of energy no calculation of a crystal knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from pesloss.losses.batch import Batch, atom_counts, spread_rows
from pesloss.losses.masks import MASKS, Mask
from pesloss.losses.properties import Property
from pesloss.losses.reductions import Reduction
from pesloss.losses.terms.scored import ScoredTerm
from pesloss.names import part, unknown

METHODS = ("trapezoid", "sum")
SLOPE = (1 / 4, -4 / 3, 3.0, -4.0, 25 / 12)
"""Derivative at the last of five points, exact for polynomials of degree 4."""


class DOSTerm(ScoredTerm):
    r"""Distance of two densities of states after the rigid shift of energy that brings them closest.

    The prediction p has more points than the label t. The label is laid over it at every shift s; what is
    predicted below the label has to vanish. With the label known at the points m:

    .. math:: D = \min_s \int_m \big(p(E + s) - t(E)\big)^2 dE + \int_{E < s} p^2\, dE

    ``gradient_weight`` keeps the prediction flat where nothing is known of it, above the label and in its
    gaps, ``cumulative_weight`` compares the numbers of states below each energy:

    .. math:: D + w_\text{g} \int_{\text{not } m} \Big(\frac{dp}{dE}\Big)^2 dE
                + w_\text{c} \int_m \Big(\int^E_m (p - t)\, dE'\Big)^2 dE

    The value of the term is the mean over structures. The shift is chosen without gradient, in float64.

    Args:
        property: the label, a :class:`Property` of your own or its arguments: shape ``(points,)``, NaN where
            it is not known.
        spacing: of the energy grid, in eV.
        extra: how many points more than the label has are predicted.
        zeros: whether zeros stand on either side of the prediction, as many as the label has points, so that
            any shift can be found.
        padded: whether the label has ``extra`` points in front, which are not read.
        method: how D integrates: ``trapezoid``, or ``sum`` over the points, without the spacing.
        gradient_weight: w of the gradient where nothing is known.
        cumulative_weight: w of the cumulative densities.
        per_atom: compare densities over the number of atoms.
        prediction: key of the prediction, if it is not the property's name.
        label: key of the label in the batch, if it is not the property's name.
        mask: part or name, of structures or of points of the label; what it leaves out is not known.
        reduction: part or name.
        weight: prior weight in the total.
        weighted_by: entries of the batch that weight the structures.

    Raises:
        ValueError: for a property that is no spectrum, grids that do not fit each other, negative weights, a
            spacing that is not positive, and an unknown ``method``.

    References:
        W. B. How et al., arXiv:2508.17418 (2025): alignment, gradient and cumulative terms.
    """

    per_row = True

    def __init__(
        self,
        property: Property | Mapping[str, Any],
        *,
        spacing: float = 0.05,
        extra: int = 0,
        zeros: bool = False,
        padded: bool = False,
        method: str = "trapezoid",
        gradient_weight: float = 0.0,
        cumulative_weight: float = 0.0,
        per_atom: bool = False,
        prediction: str | None = None,
        label: str | None = None,
        mask: Mask | str = "labelled",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
    ) -> None:
        super().__init__(property, label=label, reduction=reduction, weight=weight, weighted_by=weighted_by)
        self.choice = part("mask", mask, Mask, MASKS)
        self.choice.check(self.property)
        if method not in METHODS:
            raise ValueError(unknown("method", method, METHODS))
        self.method, self.zeros, self.per_atom = method, zeros, per_atom
        self.spacing = _number("spacing", spacing, above=True)
        self.gradient_weight = _number("gradient_weight", gradient_weight)
        self.cumulative_weight = _number("cumulative_weight", cumulative_weight)
        self.front = extra if padded else 0
        self.points = self._points(extra)
        name = self.property.name if prediction is None else prediction
        self.outputs = (replace(self.property, name=name, shape=(self.points + extra,)),)

    def shape_of_label(self, prediction: Tensor) -> tuple[int, ...]:
        return (prediction.shape[0], *self.property.shape)

    def label_of(self, batch: Batch, prediction: Tensor | None = None) -> Tensor:
        label, chosen = super().label_of(batch, prediction), self.choice(batch)
        if chosen is not None:
            label = torch.where(self._over_points(chosen, label), label, torch.nan)
        return label[:, self.front :]

    def known(self, label: Tensor) -> Tensor:
        return (~label.isnan()).any(1)

    def score(self, predicted: Sequence[Tensor], label: Tensor, batch: Batch) -> Tensor:
        known, (spectrum,) = ~label.isnan(), predicted
        target = torch.where(known, label, 0)
        if self.per_atom:
            atoms = spread_rows(atom_counts(batch), 1)
            spectrum, target = spectrum / atoms, target / atoms
        if self.zeros:
            spectrum = pad(spectrum, (self.points, self.points))
        shift = self.shift(spectrum, target, known)
        aligned = spectrum.gather(1, shift + torch.arange(self.points, device=shift.device))
        error = torch.where(known, aligned - target, 0)
        below = self._below(spectrum.square()).gather(1, shift).squeeze(1)
        # 0 · what lies outside is NaN if that is not finite
        cost = (error.square() * self._steps(error)).sum(1) + below + (0 * spectrum).sum(1)
        if self.gradient_weight:
            cost = cost + self.gradient_weight * self._roughness(spectrum, known, shift)
        if self.cumulative_weight:
            cost = cost + self.cumulative_weight * self._cumulative(error, known)
        return cost

    @torch.no_grad()
    def shift(
        self,
        spectrum: Float[Tensor, "rows predicted"],
        target: Float[Tensor, "rows points"],
        known: Bool[Tensor, "rows points"],
    ) -> Int[Tensor, "rows 1"]:
        """Place of the label's first point on the prediction's grid where the two are closest."""
        spectrum, target = spectrum.double(), target.double()
        steps = known * self._steps(target)
        squared = _correlation(spectrum.square(), steps) - 2 * _correlation(spectrum, steps * target)
        return (squared + self._below(spectrum.square())[:, : squared.shape[1]]).argmin(1, keepdim=True)

    def formula(self) -> str:
        p, t = self.outputs[0].name, f"{self.property.name}{' / N' if self.per_atom else ''}"
        integral = "∫" if self.method == "trapezoid" else "Σ"
        score = f"min_s {integral}_known (p(E+s) − t)² + {integral}_below p²"
        if self.gradient_weight:
            score += f" + {self.gradient_weight:g}·∫_unknown (dp/dE)²"
        if self.cumulative_weight:
            score += f" + {self.cumulative_weight:g}·∫_known (∫(p − t))²"
        names = "p = t" if p == self.property.name else f"p = {p}, t"
        said = f"{self.weight_symbol()}({score}), {names} = {t}, dE = {self.spacing:g} eV"
        return self.reduction.formula(" ".join(filter(None, [said, self.choice.formula()])))

    def _steps(self, values: Float[Tensor, "rows points"]) -> Float[Tensor, "points"]:
        """What each point of the label stands for in the integral."""
        steps = values.new_ones(self.points)
        if self.method == "sum":
            return steps
        return self.spacing * torch.cat([0.5 * steps[:1], steps[2:], 0.5 * steps[:1]])

    def _below(self, values: Float[Tensor, "rows predicted"]) -> Float[Tensor, "rows shifts"]:
        """Integral of what is predicted below each shift."""
        if self.method == "sum":
            return pad(values.cumsum(1), (1, 0))
        return pad(torch.cumulative_trapezoid(values, dx=self.spacing, dim=1), (1, 0))

    def _roughness(
        self,
        spectrum: Float[Tensor, "rows predicted"],
        known: Bool[Tensor, "rows points"],
        shift: Int[Tensor, "rows 1"],
    ) -> Float[Tensor, "rows"]:
        """Integral of the squared slope where the label says nothing; below it the prediction vanishes."""
        last = spectrum.shape[1] - len(SLOPE) + 1
        slope = sum(c / self.spacing * spectrum[:, k : k + last] for k, c in enumerate(SLOPE))
        place = torch.arange(len(SLOPE) - 1, spectrum.shape[1], device=shift.device) - shift
        told = known.gather(1, place.clamp(0, self.points - 1)) & (place < self.points)
        rough = torch.where(told | (place < 0), 0, slope)
        return torch.trapezoid(rough.square(), dx=self.spacing, dim=1)

    def _cumulative(
        self, error: Float[Tensor, "rows points"], known: Bool[Tensor, "rows points"]
    ) -> Float[Tensor, "rows"]:
        """Integral of the squared difference of the numbers of states."""
        number = torch.cumulative_trapezoid(error, dx=self.spacing, dim=1)
        return torch.trapezoid(torch.where(known[:, 1:], number, 0).square(), dx=self.spacing, dim=1)

    def _over_points(self, chosen: Tensor, label: Tensor) -> Tensor:
        if chosen.shape == label.shape:
            return chosen
        if tuple(chosen.shape) == (label.shape[0],):
            return chosen[:, None]
        raise ValueError(
            f"Mask of '{self.property.name}' has shape {tuple(chosen.shape)} for a label of shape "
            f"{tuple(label.shape)}; give one truth value a structure, or one a point."
        )

    def _points(self, extra: int) -> int:
        name, shape = self.property.name, tuple(self.property.shape)
        if isinstance(extra, bool) or not isinstance(extra, int) or extra < 0:
            raise ValueError(f"extra is a number of points, got {extra!r}.")
        if len(shape) != 1 or shape[0] - self.front < len(SLOPE):
            raise ValueError(
                f"A spectrum has shape (points,) with {len(SLOPE)} points or more"
                f"{f' beyond the {extra} padded ones' if self.front else ''}, but '{name}' has {shape}."
            )
        return shape[0] - self.front


def _correlation(
    spectrum: Float[Tensor, "rows predicted"], pattern: Float[Tensor, "rows points"]
) -> Float[Tensor, "rows shifts"]:
    """Sum of the products at every shift, by Fourier transforms."""
    size, shifts = spectrum.shape[1], spectrum.shape[1] - pattern.shape[1] + 1
    if not spectrum.shape[0]:  # of which some libraries have no transform
        return spectrum.new_zeros(0, shifts)
    product = torch.fft.rfft(spectrum) * torch.fft.rfft(pattern, n=size).conj()
    return torch.fft.irfft(product, n=size)[:, :shifts]


def _number(name: str, value: float, above: bool = False) -> float:
    if isinstance(value, bool) or not 0 <= value < inf or (above and not value):
        raise ValueError(
            f"{name} must be finite and {'positive' if above else 'not negative'}, got {value!r}."
        )
    return float(value)

"""Scores of an ensemble of predictions: it shall be right, and spread as much as it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import pi, sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions, atom_counts, spread_rows
from pesloss.losses.masks import Mask
from pesloss.losses.properties import Property
from pesloss.losses.reductions import Reduction
from pesloss.losses.residuals import PerAtom
from pesloss.losses.terms.scored import ScoredTerm, not_below
from pesloss.names import unknown


class EnsembleTerm(ScoredTerm):
    r"""Proper score of an ensemble: smallest, on average, if the label could be one of its members.

    With mean m and unbiased variance v over the members Y, and z = (m − label)/√v:

    .. math::
        \text{gaussian\_nll} &= \tfrac12 \big(\ln v + z^2\big) \\
        \text{gaussian\_crps} &= \sqrt v \,\big[z\,(2\Phi(z) - 1) + 2\varphi(z) - \pi^{-1/2}\big] \\
        \text{empirical\_crps} &= \frac1M \sum_m |Y_m - \text{label}|
                                  - \frac{1}{2M^2} \sum_{mn} |Y_m - Y_n|

    The last, ``fair``, divides by M(M − 1) instead of M² and does not depend on the number of members, on
    average. Members that are exactly equal are pushed apart by it, in the order of their places.

    Args:
        property: name of the property, or a :class:`Property` of your own, or its arguments as a mapping.
        score: ``gaussian_nll``, ``gaussian_crps`` or ``empirical_crps``.
        fair: whether the empirical score is that of infinitely many members, estimated.
        members: how many there are; ``None`` for as many as are predicted.
        ensemble: key of the predictions [rows, members, *entry]; ``<property>_ensemble`` by default.
        per_atom: compare energies (or another extensive property) over the number of atoms.
        floor: smallest variance, in the unit's square; by default 1e-6 for the likelihood and 1e-12 for the
            Gaussian CRPS.
        label: key of the label in the batch, if it is not the property's name.
        mask: part or name.
        reduction: part or name.
        weight: prior weight in the total.
        weighted_by: entries of the batch that weight the rows.

    Raises:
        ValueError: for an unknown score, options of another score, fewer than two members, or a property that
            is not extensive per atom.

    References:
        T. Gneiting and A. E. Raftery, J. Am. Stat. Assoc. 102, 359 (2007), eqs. (20) and (21);
        C. A. T. Ferro, Q. J. R. Meteorol. Soc. 140, 1917 (2014): fair scores.
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any],
        *,
        score: str = "gaussian_nll",
        fair: bool = False,
        members: int | None = None,
        ensemble: str | None = None,
        per_atom: bool = False,
        floor: float | None = None,
        label: str | None = None,
        mask: Mask | str = "labelled",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            property, label=label, mask=mask, reduction=reduction, weight=weight, weighted_by=weighted_by
        )
        self.kind, self.fair, self.floor = score, fair, _checked(score, fair, floor)
        self.members = None if members is None else _enough(members)
        shape = (*([] if members is None else [members]), *self.property.shape)
        name = f"{self.property.name}_ensemble" if ensemble is None else ensemble
        self.outputs = (replace(self.property, name=name, shape=shape),)
        self.per_atom = per_atom
        if per_atom:
            PerAtom().entry_shape(self.property)

    def predicted(self, predictions: Predictions, batch: Batch) -> Tensor:
        return super().predicted(predictions, batch).movedim(1, -1)

    def found(self, prop: Property, predictions: Predictions) -> Tensor:
        if self.members is not None or prop.name not in predictions:
            return super().found(prop, predictions)
        values, entry = predictions[prop.name], self.property.shape
        if values.dim() != 2 + len(entry) or tuple(values.shape[2:]) != entry:
            wanted = ", ".join([f"{prop.rows}s", "members", *map(str, entry)])
            raise ValueError(f"'{prop.name}' has shape {tuple(values.shape)}, expected ({wanted}).")
        _enough(values.shape[1])
        return values

    def shape_of_label(self, prediction: Tensor) -> tuple[int, ...]:
        return tuple(prediction.shape[:-1])

    def score(self, predicted: Sequence[Tensor], label: Tensor, batch: Batch) -> Tensor:
        deviations = predicted[0] - label[..., None]
        if self.per_atom:
            deviations = deviations / spread_rows(atom_counts(batch), deviations.dim() - 1)
        if self.kind == "empirical_crps":
            return empirical_crps(deviations, self.fair)
        return _GAUSSIAN[self.kind](deviations, self.floor)

    def formula(self) -> str:
        name, per = self.property.name, " / N" if self.per_atom else ""
        if self.kind == "empirical_crps":
            pairs = "M(M − 1)" if self.fair else "M²"
            score = f"mean_m |{name}_m − {name}|{per} − ½ Σ_mn |{name}_m − {name}_n|{per} / {pairs}"
        else:
            score = (
                f"{_WORDS[self.kind]}, m, v = mean, variance over members of {name}{per}, v ≥ {self.floor:g}"
            )
        said = f"{self.weight_symbol()}({score})"
        return self.reduction.formula(" ".join(filter(None, [said, self.mask.formula()])))


def gaussian_nll(deviations: Float[Tensor, "*entry members"], floor: float) -> Float[Tensor, "*entry"]:
    """Negative log-likelihood of a Gaussian with the members' mean and variance, without ½ ln 2π."""
    mean, variance = _moments(deviations)
    variance = not_below(variance, floor)
    return 0.5 * (variance.log() + mean.square() / variance)


def gaussian_crps(deviations: Float[Tensor, "*entry members"], floor: float) -> Float[Tensor, "*entry"]:
    """Continuous ranked probability score of that Gaussian."""
    mean, variance = _moments(deviations)
    sigma = variance.clamp(min=floor).sqrt()
    z = mean / sigma
    bell = torch.exp(-0.5 * z.square())
    return sigma * (z * torch.erf(z / sqrt(2)) + sqrt(2 / pi) * bell - 1 / sqrt(pi))


def empirical_crps(deviations: Float[Tensor, "*entry members"], fair: bool) -> Float[Tensor, "*entry"]:
    """Continuous ranked probability score of the members themselves."""
    members = deviations.shape[-1]
    # Σ_mn |Y_m − Y_n| = 2 Σ_k (2k − M − 1) Y_(k), Y_(k) in rising order
    ranks = torch.arange(1 - members, members, 2, dtype=deviations.dtype, device=deviations.device)
    pairs = (deviations.sort(dim=-1).values * ranks).sum(-1)
    return deviations.abs().mean(-1) - pairs / (members * (members - fair))


def _moments(deviations: Float[Tensor, "*entry members"]) -> tuple[Tensor, Tensor]:
    """Mean, and unbiased variance."""
    mean = deviations.mean(-1)
    # torch.var warns of a batch without rows
    spread = (deviations - mean[..., None]).square().sum(-1)
    return mean, spread / (deviations.shape[-1] - 1)


def _checked(score: str, fair: bool, floor: float | None) -> float:
    """The smallest variance of a score."""
    if score not in _SCORES:
        raise ValueError(unknown("score of an ensemble", score, _SCORES))
    if fair and score != "empirical_crps":
        raise ValueError(f"Only score 'empirical_crps' has a fair form, got fair=True with '{score}'.")
    if floor is None:
        return _FLOORS.get(score, 0.0)
    if score not in _FLOORS:
        raise ValueError(f"Score '{score}' takes no variance, and no floor of it; got floor={floor}.")
    if isinstance(floor, bool) or not 0 < floor < float("inf"):
        raise ValueError(f"The floor of a variance must be finite and positive, got {floor!r}.")
    return float(floor)


def _enough(members: int) -> int:
    if isinstance(members, bool) or not isinstance(members, int) or members < 2:
        raise ValueError(f"An ensemble needs two members or more to have a spread, got {members!r}.")
    return members


_GAUSSIAN: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "gaussian_nll": gaussian_nll,
    "gaussian_crps": gaussian_crps,
}
_FLOORS = {"gaussian_nll": 1e-6, "gaussian_crps": 1e-12}
_SCORES = (*_GAUSSIAN, "empirical_crps")
_WORDS = {
    "gaussian_nll": "½(ln v + (m − label)²/v)",
    "gaussian_crps": "√v[z(2Φ(z) − 1) + 2φ(z) − 1/√π], z = (m − label)/√v",
}

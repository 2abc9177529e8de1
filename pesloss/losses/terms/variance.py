"""Errors that the model itself announces: predicted variances, and evidence for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, log, pi
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pesloss.losses.batch import Batch
from pesloss.losses.masks import Mask
from pesloss.losses.properties import Property
from pesloss.losses.reductions import Reduction
from pesloss.losses.terms.scored import ScoredTerm, not_below
from pesloss.names import unknown

FORMS = ("variance", "log_variance", "softplus")


class VarianceTerm(ScoredTerm):
    r"""Gaussian likelihood with a predicted variance, which learns how wrong each prediction is.

    .. math:: \lfloor\sigma^{2\beta}\rfloor \;\tfrac12 \Big(\ln\sigma^2 + \frac{r^2}{\sigma^2}\Big)

    :math:`\lfloor\cdot\rfloor` has no gradient. The plain likelihood (β = 0) neglects what it finds hard, for
    a large σ makes the pull on the mean small; with β = 1 the mean is fitted as by a squared error.

    Args:
        property: name of the property, or a :class:`Property` of your own, or its arguments as a mapping.
        beta: β, from 0 to 1.
        variance: key of the predicted variance, in the shape of the property; ``<property>_variance`` by
            default.
        form: what is predicted there: the ``variance`` itself, ``log_variance``, or any number of which the
            ``softplus`` is the variance.
        floor: smallest variance, in the unit's square. The gradient passes it: what is below can rise.
        label: key of the label in the batch, if it is not the property's name.
        mask: part or name.
        reduction: part or name.
        weight: prior weight in the total.
        weighted_by: entries of the batch that weight the rows.

    Raises:
        ValueError: if ``beta`` is not from 0 to 1, ``floor`` not positive, or ``form`` unknown.

    References:
        M. Seitzer, A. Tavakoli, D. Antic and G. Martius, ICLR 2022, eq. (5);
        D. A. Nix and A. S. Weigend, ICNN 1994: the likelihood.
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any],
        *,
        beta: float = 0.5,
        variance: str | None = None,
        form: str = "variance",
        floor: float = 1e-6,
        label: str | None = None,
        mask: Mask | str = "labelled",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            property, label=label, mask=mask, reduction=reduction, weight=weight, weighted_by=weighted_by
        )
        if isinstance(beta, bool) or not 0 <= beta <= 1:
            raise ValueError(f"VarianceTerm needs a beta from 0 to 1, got {beta!r}.")
        if isinstance(floor, bool) or not 0 < floor < inf:
            raise ValueError(f"The floor of a variance must be finite and positive, got {floor!r}.")
        if form not in FORMS:
            raise ValueError(unknown("form of a variance", form, FORMS))
        self.beta, self.form, self.floor = beta, form, floor
        name, unit = f"{self.property.name}_variance" if variance is None else variance, self.property.unit
        self.outputs = (
            self.property,
            Property(name, self.property.rows, self.property.shape, unit=f"({unit})²"),
        )

    def score(self, predicted: Sequence[Tensor], label: Tensor, batch: Batch) -> Tensor:
        prediction, values = predicted
        if self.form != "variance":
            values = softplus(values) if self.form == "softplus" else values.exp()
        variance = not_below(values, self.floor)
        likelihood = 0.5 * (variance.log() + (prediction - label).square() / variance)
        return likelihood if self.beta == 0 else variance.detach().pow(self.beta) * likelihood

    def formula(self) -> str:
        score = f"½(ln σ² + (Δ{self.property.name})²/σ²)"
        factor = f"[σ²]^{self.beta:g}·" if self.beta else ""
        where = f"σ² = {_named(self.form, self.outputs[1].name)} ≥ {self.floor:g}"
        parts = [f"{self.weight_symbol()}{factor}{score}, {where}", self.mask.formula()]
        return self.reduction.formula(" ".join(filter(None, parts)))


class EvidentialTerm(ScoredTerm):
    r"""Likelihood over all Gaussians that evidence makes probable: what data leave open is an error too.

    The prediction γ and three more numbers of each entry, ν > 0, α > 1 and β > 0, are a normal-inverse-gamma
    distribution of mean and variance; with r = γ − label and Ω = 2β(1 + ν),

    .. math::
        \tfrac12 \ln\frac{\pi}{\nu} - \alpha\ln\Omega + (\alpha + \tfrac12)\ln(\nu r^2 + \Omega)
        + \ln\frac{\Gamma(\alpha)}{\Gamma(\alpha + \frac12)} \;+\; \lambda\,|r|\,(2\nu + \alpha)

    Noise of the labels is then β/(α − 1), the uncertainty of the model β/(ν(α − 1)).

    Args:
        property: name of the property γ, or a :class:`Property` of your own, or its arguments as a mapping.
        coefficient: λ, in the inverse of the property's unit: evidence costs where it was wrong.
        evidence: keys of ν, α and β, in the shape of the property; by default ``<property>_nu``,
            ``<property>_alpha``, ``<property>_beta``.
        softplus: whether any numbers are predicted, of which ν and β are the softplus, and α is 1 + softplus.
        label: key of the label in the batch, if it is not the property's name.
        mask: part or name.
        reduction: part or name.
        weight: prior weight in the total.
        weighted_by: entries of the batch that weight the rows.

    Raises:
        ValueError: if ``coefficient`` is negative, or there are not three keys.

    References:
        A. Amini, W. Schwarting, A. Soleimany and D. Rus, NeurIPS 2020, eqs. (8) to (10).
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any],
        *,
        coefficient: float = 0.01,
        evidence: Sequence[str] | None = None,
        softplus: bool = True,
        label: str | None = None,
        mask: Mask | str = "labelled",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            property, label=label, mask=mask, reduction=reduction, weight=weight, weighted_by=weighted_by
        )
        if isinstance(coefficient, bool) or not 0 <= coefficient < inf:
            raise ValueError(f"EvidentialTerm needs a finite coefficient >= 0, got {coefficient!r}.")
        name = self.property.name
        usual = (f"{name}_nu", f"{name}_alpha", f"{name}_beta")
        keys = usual if evidence is None else tuple(evidence)
        if len(set(keys)) != 3:
            raise ValueError(f"evidence names ν, α and β, three different keys, got {list(keys)}.")
        rows, shape, units = self.property.rows, self.property.shape, ("", "", f"({self.property.unit})²")
        of = (Property(key, rows, shape, unit=unit) for key, unit in zip(keys, units, strict=True))
        self.outputs = (self.property, *of)
        self.coefficient, self.softplus = coefficient, softplus

    def score(self, predicted: Sequence[Tensor], label: Tensor, batch: Batch) -> Tensor:
        prediction, *evidence = predicted
        nu, alpha, beta = map(softplus, evidence) if self.softplus else evidence
        alpha = alpha + self.softplus
        residual, omega = prediction - label, 2 * beta * (1 + nu)
        likelihood = (
            0.5 * (log(pi) - nu.log())
            - alpha * omega.log()
            + (alpha + 0.5) * (nu * residual.square() + omega).log()
            + torch.lgamma(alpha)
            - torch.lgamma(alpha + 0.5)
        )
        return likelihood + self.coefficient * residual.abs() * (2 * nu + alpha)

    def formula(self) -> str:
        r = f"Δ{self.property.name}"
        score = (
            f"½ ln(π/ν) − α ln Ω + (α + ½) ln(ν({r})² + Ω) + ln Γ(α)/Γ(α + ½) + "
            f"{self.coefficient:g}·|{r}|(2ν + α), Ω = 2β(1 + ν)"
        )
        form = "softplus" if self.softplus else "variance"
        nu, alpha, beta = (prop.name for prop in self.outputs[1:])
        one = "1 + " if self.softplus else ""
        where = f"ν = {_named(form, nu)}, α = {one}{_named(form, alpha)}, β = {_named(form, beta)}"
        parts = [f"{self.weight_symbol()}[{score}], {where}", self.mask.formula()]
        return self.reduction.formula(" ".join(filter(None, parts)))


def _named(form: str, key: str) -> str:
    return {"log_variance": f"exp({key})", "softplus": f"softplus({key})"}.get(form, key)

"""What only DeePMD-kit's losses are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pesloss.losses.batch import (
    Batch,
    Predictions,
    num_structures,
    predicted,
    structure_of_atom,
    sum_over_atoms,
)
from pesloss.losses.penalties import Penalty
from pesloss.losses.properties import PROPERTIES, Property
from pesloss.losses.residuals import Residual
from pesloss.losses.residuals.base import Shape
from pesloss.losses.residuals.scaling import Wrapped
from pesloss.losses.terms.property import PropertyTerm
from pesloss.losses.terms.restated import Restated
from pesloss.names import unknown

COMBINATIONS: Mapping[str, Sequence[Sequence[float]]] = {
    "spins": [[1, -1]],
    "populations": [[1, 0], [0, 1]],
    "total_spin": [[1, -1]],
    "total_up": [[1, 0]],
    "total_down": [[0, 1]],
}
"""What is made of the populations of spin up and down."""

TOTALS = ("total_spin", "total_up", "total_down")


class PopulationTerm(Restated):
    r"""Errors of the populations of spin up and down, of the spins they leave, or of their totals.

    .. math:: \sum_s \frac{1}{N_s} \sum_{i \in s} \rho(\Delta x_i) \;\text{(atoms)}, \qquad
              \sum_s \rho\Big(\sum_{i \in s} \Delta x_i\Big) \;\text{(totals)}

    A sum over structures, so that it grows with the batch. A total counts if every atom has a label.

    Args:
        of: ``spins``, ``populations`` of the atoms, or ``total_spin``, ``total_up``, ``total_down``.
        penalty: part or name.
        weight: prior weight in the total.

    Raises:
        ValueError: for an unknown ``of``.
    """

    def __init__(self, of: str, *, penalty: Penalty | str = "absolute", weight: float = 1.0) -> None:
        if of not in COMBINATIONS:
            raise ValueError(f"of: {unknown('quantity made of populations', of, COMBINATIONS)}")
        made = Property(
            f"{of}_of_populations",
            rows="structure" if of in TOTALS else "atom",
            shape=(len(COMBINATIONS[of]),),
            unit="e",
        )
        weights = ["weight"] if of in TOTALS else ["weight", f"{made.name}_weight"]
        term = PropertyTerm(made, penalty=penalty, reduction="sum", weight=weight, weighted_by=weights)
        super().__init__(term)
        self.of = of

    @property
    def required(self) -> Mapping[str, Property]:
        return {"populations": PROPERTIES["populations"]}

    def prediction(self, predictions: Predictions, batch: Batch) -> Float[Tensor, "rows made"]:
        return self._made(predicted(predictions, "populations"), batch)

    def labelled(self, batch: Batch, predictions: Predictions | None = None) -> Batch:
        if "populations" not in batch:
            return batch
        name, label = self.term.property.name, batch["populations"]
        made = {**batch, name: self._made(label, batch)}
        if self.of in TOTALS:
            return made
        share = 1 / batch["ptr"].diff().to(label.dtype)
        return {**made, f"{name}_weight": share[structure_of_atom(batch, label.shape[0])]}

    def formula(self) -> str:
        over = "" if self.of in TOTALS else "; the weight of an atom is 1/N of its structure"
        return f"{self.term.formula()}{over}"

    def _made(self, populations: Float[Tensor, "atoms 2"], batch: Batch) -> Tensor:
        made = torch.stack([_combined(populations, row) for row in COMBINATIONS[self.of]], dim=1)
        if self.of not in TOTALS:
            return made
        return sum_over_atoms(made, structure_of_atom(batch, made.shape[0]), num_structures(batch))


def _combined(populations: Float[Tensor, "atoms 2"], factors: Sequence[float]) -> Float[Tensor, "atoms"]:
    # column by column: a spin that is not part of a combination needs no label
    columns = [factor * populations[:, spin] for spin, factor in enumerate(factors) if factor]
    return torch.stack(columns).sum(0)


class OverDeviation(Wrapped):
    r"""Residual over the standard deviation of the training labels, each component over its own.

    .. math:: r_c / \sigma_c, \qquad \sigma_c^2 = \langle x_c^2 \rangle - \langle x_c \rangle^2, \quad
              x = r(\text{label}, 0)

    Fitted numbers are state: they are saved, and a checkpoint brings them back. A component whose labels are
    all the same keeps σ = 1.

    Args:
        residual: part or name.
        deviation: σ of each component; ``None`` fits it to the training labels.
        components: number of components, if they are to be fitted.

    Raises:
        ValueError: for a σ that is not positive, another number of components, no label to fit to, and if
            used before it is fitted.
    """

    def __init__(
        self,
        residual: Residual | str = "difference",
        deviation: Sequence[float] | None = None,
        components: int = 1,
    ) -> None:
        super().__init__(residual)
        given = [float("nan")] * components if deviation is None else [float(value) for value in deviation]
        if deviation is not None and not all(0 < value < float("inf") for value in given):
            raise ValueError(f"OverDeviation needs finite deviations > 0, got {given}.")
        self.open = deviation is None
        self.sigma: Tensor
        self.register_buffer("sigma", torch.tensor(given, dtype=torch.float64), persistent=self.open)
        self.register_load_state_dict_post_hook(_fitted_before)
        self._sums = torch.zeros(3, len(given), dtype=torch.float64)

    def entry_shape(self, prop: Property) -> Shape:
        shape = super().entry_shape(prop)
        if shape != tuple(self.sigma.shape):
            raise ValueError(
                f"'{prop.name}' has entries of shape {shape}; OverDeviation has {len(self.sigma)} "
                f"deviations, for entries of shape ({len(self.sigma)},)."
            )
        return shape

    @property
    def needs_fit(self) -> bool:
        return self.open

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        if self.open:
            raise ValueError("OverDeviation has no σ yet: fit it to training labels, or give deviation.")
        residual = self.inner(prediction, label, batch)
        return residual / self.sigma.to(residual.dtype)

    @torch.no_grad()
    def fit(self, label: Tensor, batch: Batch) -> None:
        known = self.inner.labelled(label)
        filled = torch.where(label.isnan(), 0, label).double()
        values = torch.where(known, self.inner(filled, torch.zeros_like(filled), batch), 0)
        self._sums = self._sums.to(values.device)
        self._sums += torch.stack([known.double().sum(0), values.sum(0), values.square().sum(0)])

    def fitted(self) -> None:
        count, total, square = self._sums
        if not bool((count > 0).any()):
            raise ValueError("OverDeviation found no label to fit its σ to; give deviation.")
        variance = (square - total.square() / count.clamp(min=1)) / count.clamp(min=1)
        self.sigma.copy_(torch.where(variance > 0, variance, 1).sqrt())
        self.open = False

    def formula(self, name: str) -> str:
        shown = "to be fitted" if self.open else ", ".join(f"{sigma:g}" for sigma in self.sigma.tolist())
        return f"[{self.inner.formula(name)}] / σ, σ = {shown}"

    def unit(self, unit: str) -> str:
        return ""


def _fitted_before(module: OverDeviation, incompatible: object) -> None:
    module.open = bool(module.sigma.isnan().any())


class SignedRelative(Residual):
    r"""Difference over the label with its sign, which diverges at a label of −c.

    .. math:: (\text{prediction} - \text{label}) / (\text{label} + c)

    Args:
        offset: c, in the property's unit.
    """

    scaled_by_label = True

    def __init__(self, offset: float = 1e-3) -> None:
        super().__init__()
        self.offset = offset

    def forward(
        self, prediction: Float[Tensor, "rows *entry"], label: Float[Tensor, "rows *entry"], batch: Batch
    ) -> Tensor:
        return (prediction - label) / (label + self.offset)

    def formula(self, name: str) -> str:
        return f"Δ{name} / (label + {self.offset:g})"

    def unit(self, unit: str) -> str:
        return ""

"""Directions and magnitudes, each without the other."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pesloss.losses.batch import Batch
from pesloss.losses.properties import Property
from pesloss.losses.residuals.base import Residual, Shape
from pesloss.names import unknown

MAGNITUDES = ("both", "label")


class Direction(Residual):
    r"""Difference of unit vectors, blind to lengths.

    .. math:: \hat{u} - \hat{v}, \qquad \tfrac12 \|\hat{u} - \hat{v}\|^2 = 1 - \cos\angle(u, v)

    A label shorter than ``epsilon`` has no direction, and does not count. A prediction shorter than that is
    divided by ``epsilon``, which keeps its gradient finite.

    Args:
        epsilon: the shortest length with a direction, in the property's unit.

    Raises:
        ValueError: if ``epsilon`` is not positive, or the property's entries are no vectors.
    """

    scaled_by_label = True
    linear = False

    def __init__(self, epsilon: float = 1e-6) -> None:
        super().__init__()
        if isinstance(epsilon, (str, bool)) or not 0 < epsilon < float("inf"):
            raise ValueError(f"Direction needs a finite epsilon > 0, got {epsilon!r}.")
        self.epsilon = epsilon

    def entry_shape(self, prop: Property) -> Shape:
        if len(prop.shape) != 1:
            raise ValueError(
                f"'{prop.name}' has entries of shape {tuple(prop.shape)}; residual 'direction' needs vectors."
            )
        return super().entry_shape(prop)

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        return self._unit(prediction) - self._unit(label)

    def labelled(self, label: Tensor) -> Tensor:
        # comparing with NaN is false: a vector without one of its components has no direction either
        return (_length(label) >= self.epsilon).expand(label.shape)

    def formula(self, name: str) -> str:
        return f"Δ({name}/‖{name}‖), of labels from {self.epsilon:g}"

    def unit(self, unit: str) -> str:
        return ""

    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon:g}"

    def _unit(self, vector: Float[Tensor, "rows entry"]) -> Float[Tensor, "rows entry"]:
        return vector / _length(vector).clamp(min=self.epsilon)


class Magnitude(Residual):
    r"""Difference of absolute values of numbers, or of lengths of vectors, blind to sign and direction.

    .. math:: |\text{prediction}| - |\text{label}|

    Args:
        of: whether the absolute value is taken of ``both``, or of the ``label`` alone, so that a number
            that has a sign in the data learns to have none.

    Raises:
        ValueError: for an unknown ``of``, tensors, or vectors of which only the label loses its direction.
    """

    def __init__(self, of: str = "both") -> None:
        super().__init__()
        if of not in MAGNITUDES:
            raise ValueError(f"of: {unknown('magnitude', of, MAGNITUDES)}")
        self.of = of
        self.linear = of == "label"

    def entry_shape(self, prop: Property) -> Shape:
        if len(prop.shape) > 1 or (prop.shape and self.of == "label"):
            raise ValueError(
                f"'{prop.name}' has entries of shape {tuple(prop.shape)}; residual 'magnitude' needs "
                "numbers, or vectors and of='both'."
            )
        return ()

    def forward(self, prediction: Tensor, label: Tensor, batch: Batch) -> Tensor:
        return (_magnitude(prediction) if self.of == "both" else prediction) - _magnitude(label)

    def labelled(self, label: Tensor) -> Tensor:
        known = super().labelled(label)
        return known if label.dim() == 1 else known.all(-1)

    def formula(self, name: str) -> str:
        return f"|{name}| − |label|" if self.of == "both" else f"{name} − |label|"

    def extra_repr(self) -> str:
        return f"of={self.of}"


def _length(vector: Float[Tensor, "rows entry"]) -> Float[Tensor, "rows 1"]:
    return torch.linalg.vector_norm(vector, dim=-1, keepdim=True)


def _magnitude(values: Float[Tensor, "rows *entry"]) -> Float[Tensor, "rows"]:
    return values.abs() if values.dim() == 1 else _length(values).squeeze(-1)

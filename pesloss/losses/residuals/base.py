"""What every residual answers: a distance from the label, its formula and its unit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import product
from math import prod

from jaxtyping import Bool, Float
from torch import Tensor, nn

from pesloss.losses.batch import Batch
from pesloss.losses.properties import Property

Shape = tuple[int, ...]


class Residual(nn.Module, ABC):
    """Distance of a prediction from its label, one number a component.

    ``scaled_by_label`` residuals have labels in their gradient and get 0 where one is missing; the others
    may give NaN there, which is replaced before anything depends on it. ``linear`` says whether the gradient
    does not depend on the prediction; if it does, what is predicted where nothing counts has to be replaced
    by a number before.
    """

    scaled_by_label: bool = False
    linear: bool = True

    def entry_shape(self, prop: Property) -> Shape:
        """Shape of one row of the residual of a property.

        Raises:
            ValueError: if this residual makes no sense for the property.
        """
        return tuple(prop.shape)

    @abstractmethod
    def forward(
        self, prediction: Float[Tensor, "rows *entry"], label: Float[Tensor, "rows *entry"], batch: Batch
    ) -> Float[Tensor, "rows *residual"]:
        """Residual of every row.

        Args:
            prediction: what the model says.
            label: what the reference says, the same shape; NaN (or 0, see above) where there is no label.
            batch: the structures they belong to.
        """

    @property
    def has_adjoint(self) -> bool:
        """Whether :meth:`adjoint` knows the derivative."""
        return type(self).adjoint is not Residual.adjoint

    def adjoint(
        self, slope: Float[Tensor, "rows *residual"], batch: Batch
    ) -> Float[Tensor, "rows *entry"] | None:
        """Derivative of costs by predictions, from that by residuals; ``None`` leaves it to autograd."""
        return None

    def labelled(self, label: Float[Tensor, "rows *entry"]) -> Bool[Tensor, "rows *residual"]:
        """Which entries of the residual have a label, where NaN stands for a missing one."""
        return label == label  # noqa: PLR0124, half the cost of ~isnan

    @abstractmethod
    def formula(self, name: str) -> str:
        """The residual in symbols, ``name`` being the property's."""

    def component_names(self, prop: Property) -> list[str]:
        """Names of the components of one row, xx, xy, ... of a tensor, in the order of its flat entries."""
        shape = self.entry_shape(prop)
        if any(size != 3 for size in shape):
            return [str(index) for index in range(prod(shape))]
        return ["".join(axes) for axes in product("xyz", repeat=len(shape))]

    def unit(self, unit: str) -> str:
        """Unit of the residual of a property with this unit."""
        return unit

    def check(self, label: Float[Tensor, "rows *entry"], batch: Batch) -> None:
        """Look at data once, on the host, for labels that no residual can be made of.

        Raises:
            ValueError: if there is one.
        """

    @property
    def needs_fit(self) -> bool:
        """Whether it waits for numbers from the training labels."""
        return False

    def fit(self, label: Float[Tensor, "rows *entry"], batch: Batch) -> None:
        """Told the training labels, batch after batch, NaN where one is missing."""

    def fitted(self) -> None:
        """Told that these were all.

        Raises:
            ValueError: if they do not hold what is to be found.
        """

"""Which rows a term looks at, beyond having a label."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Bool
from torch import Tensor, nn

from pesloss.losses.batch import Batch
from pesloss.losses.properties import Property


class Mask(nn.Module, ABC):
    """Choice of the rows that count. What is not chosen is in neither the sum nor the count."""

    def check(self, prop: Property) -> None:
        """Say whether the choice makes sense for a property.

        Raises:
            ValueError: if it does not.
        """

    @abstractmethod
    def forward(self, batch: Batch) -> Bool[Tensor, "rows"] | None:
        """Rows that count, ``None`` for all of them."""


class Labelled(Mask):
    """Every row with a label."""

    def forward(self, batch: Batch) -> None:
        return None


class FreeAtoms(Mask):
    """Atoms that may move: those the calculation held fixed carry constraint forces, which are no labels.

    Reads ``fixed [N]`` of the batch.

    Raises:
        ValueError: for a property of structures.
        KeyError: if the batch does not say which atoms are fixed.
    """

    def check(self, prop: Property) -> None:
        if prop.rows != "atom":
            raise ValueError(f"Mask 'free_atoms' chooses atoms, but '{prop.name}' has one row a {prop.rows}.")

    def forward(self, batch: Batch) -> Tensor:
        if "fixed" not in batch:
            raise KeyError(f"Mask 'free_atoms' needs 'fixed' [atoms] in the batch; found {sorted(batch)}.")
        return ~batch["fixed"]


MASKS = {"labelled": Labelled, "free_atoms": FreeAtoms}

"""Which rows a term looks at, beyond having a label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from pesloss.losses.batch import Batch
from pesloss.losses.elements import NUMBERS, atomic_number
from pesloss.losses.properties import Property


class Mask(nn.Module, ABC):
    """Choice of the rows, or single entries, that count. The others are in neither the sum nor the count."""

    def check(self, prop: Property) -> None:
        """Say whether the choice makes sense for a property.

        Raises:
            ValueError: if it does not.
        """

    @abstractmethod
    def forward(self, batch: Batch) -> Bool[Tensor, "rows *entry"] | None:
        """Rows that count, or entries in the shape of the property; ``None`` for all of them."""

    @abstractmethod
    def formula(self) -> str:
        """The choice in words that end a sentence about costs; none for everything."""


class Labelled(Mask):
    """Every row with a label."""

    def forward(self, batch: Batch) -> None:
        return None

    def formula(self) -> str:
        return ""


class FreeAtoms(Mask):
    """Atoms that may move: those the calculation held fixed carry constraint forces, which are no labels.

    Reads ``fixed [N]`` of the batch.

    Raises:
        ValueError: for a property of structures.
        KeyError: if the batch does not say which atoms are fixed.
    """

    def check(self, prop: Property) -> None:
        _check_atoms("free_atoms", prop)

    def forward(self, batch: Batch) -> Tensor:
        return ~_entry("free_atoms", "fixed", batch)

    def formula(self) -> str:
        return "of atoms that are not fixed"


class Elements(Mask):
    """Atoms of some chemical elements.

    Reads ``numbers [N]`` of the batch.

    Args:
        elements: symbols or atomic numbers.

    Raises:
        ValueError: for an unknown element, none at all, or a property of structures.
        KeyError: if the batch has no ``numbers``.
    """

    def __init__(self, elements: Sequence[str | int]) -> None:
        super().__init__()
        self.elements = [elements] if isinstance(elements, str) else list(elements)
        if not self.elements:
            raise ValueError("Mask 'elements' needs at least one element.")
        chosen = torch.zeros(NUMBERS, dtype=torch.bool)
        chosen[[atomic_number(element) for element in self.elements]] = True
        self.chosen: Tensor
        self.register_buffer("chosen", chosen, persistent=False)

    def check(self, prop: Property) -> None:
        _check_atoms("elements", prop)

    def forward(self, batch: Batch) -> Tensor:
        return self.chosen[_entry("elements", "numbers", batch)]

    def formula(self) -> str:
        return f"of {', '.join(map(str, self.elements))} atoms"

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.elements))


class Given(Mask):
    """Rows, or single components, that the batch itself says count.

    Args:
        key: entry of the batch, true for what counts; one a row of the property, or one a component.

    Raises:
        KeyError: if the batch has no such entry.
        TypeError: if it holds numbers rather than true and false.
    """

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, batch: Batch) -> Tensor:
        chosen = _entry("given", self.key, batch)
        if chosen.dtype != torch.bool:
            raise TypeError(f"Mask '{self.key}' must be true or false, found {chosen.dtype} in the batch.")
        return chosen

    def formula(self) -> str:
        return f"where '{self.key}'"

    def extra_repr(self) -> str:
        return self.key


def _check_atoms(mask: str, prop: Property) -> None:
    if prop.rows != "atom":
        raise ValueError(f"Mask '{mask}' chooses atoms, but '{prop.name}' has one row a {prop.rows}.")


def _entry(mask: str, key: str, batch: Batch) -> Tensor:
    if key not in batch:
        raise KeyError(f"Mask '{mask}' needs '{key}' in the batch; found {sorted(batch)}.")
    return batch[key]


MASKS: Mapping[str, Callable[..., Mask]] = {"labelled": Labelled, "free_atoms": FreeAtoms}
"""``Elements`` and ``Given`` have no short name: they need to be told which."""

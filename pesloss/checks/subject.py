"""What is checked: a loss and the structures it would learn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase.symbols import Symbols
from jaxtyping import Bool, Int64

from pesloss.data import LoadedData
from pesloss.data.storage.store import Store
from pesloss.losses import TotalLoss
from pesloss.losses.batch import group_code
from pesloss.losses.properties import Property


@dataclass(frozen=True)
class Subject:
    """A loss and its data, as every check sees them: labels in eV, Å and e, energies with their references.

    Args:
        loss: what would be minimised.
        data: what it would learn from.
    """

    loss: TotalLoss
    data: LoadedData

    @property
    def store(self) -> Store:
        """Columns of all structures (``store.structures``) and atoms (``store.atoms``), float64."""
        return self.data.store

    @cached_property
    def splits(self) -> dict[str, Int64[np.ndarray, "structures"]]:
        """Rows of the store that train, validate and test."""
        return {name: part.rows for name, part in self.data.parts.items() if len(part)}

    @property
    def labels(self) -> Mapping[str, Property]:
        """Properties that the loss compares with labels, by their key."""
        return self.loss.labels

    def column(self, name: str) -> np.ndarray | None:
        """Labels of a property for every row of the store, NaN where missing; ``None`` if there are none."""
        for axis in (self.store.structures, self.store.atoms, self.store.pairs):
            if name in axis:
                return axis[name]
        return None

    @cached_property
    def owner(self) -> Int64[np.ndarray, "atoms"]:
        """Structure of each atom of the store."""
        return np.repeat(np.arange(len(self.store)), self.store.structures["num_atoms"])

    @cached_property
    def periodic(self) -> Bool[np.ndarray, "structures"]:
        """Whether each structure repeats in all three directions, so that it has a volume."""
        return np.all(self.store.structures["pbc"], axis=1)

    def datasets(self) -> Iterator[tuple[str, Bool[np.ndarray, "structures"]]]:
        """Name of each dataset, and which structures of the store belong to it."""
        codes = self.store.structures["dataset"]
        for name in self.data.datasets:
            yield name, codes == group_code(name)

    def config_types(self) -> Iterator[tuple[str, Bool[np.ndarray, "structures"]]]:
        """Name of each config type, and which structures of the store belong to it."""
        codes = self.store.structures["config_type"]
        for name in self.data.config_types:
            yield name, codes == group_code(name)

    def atoms(self, row: int) -> slice:
        """Where the atoms of a structure stand in ``store.atoms``."""
        return slice(int(self.store.atom_ptr[row]), int(self.store.atom_ptr[row + 1]))

    def formula(self, row: int) -> str:
        """Chemical formula of a structure."""
        return Symbols(self.store.atoms["numbers"][self.atoms(row)]).get_chemical_formula()

    def name(self, row: int) -> str:
        """File of a structure, its place there, and its formula."""
        return f"{self.data.source(row)} ({self.formula(row)})"

    def names(self, rows: Sequence[int] | Int64[np.ndarray, "rows"], most: int = 5) -> tuple[str, ...]:
        """The same for the first of some structures."""
        return tuple(self.name(int(row)) for row in rows[:most])

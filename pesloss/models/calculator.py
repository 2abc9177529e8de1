"""A trained potential as a calculator of the Atomic Simulation Environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
    all_properties,
)
from ase.stress import full_3x3_to_voigt_6_stress

from pesloss.models.trained import Trained


class PotentialCalculator(Calculator):
    """Total energies in eV, forces in eV/Å, stress in eV/Å³ and whatever else the network predicts.

    Forces and stress are derivatives of the energy, so that molecular dynamics conserves it. What was asked
    for once is computed with the rest from then on, since one derivative more costs little beside a second
    evaluation.

    Args:
        trained: the potential.

    Raises:
        PropertyNotImplementedError: if the stress of a structure without a volume is asked for.
        ValueError: if an element has no reference energy.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.trained = trained
        known = (name for name in trained.potential.properties if name in all_properties)
        self.implemented_properties = ["free_energy", *known]
        self._wanted = {"energy"}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        has_volume = self.atoms.cell.rank == 3
        if "stress" in properties and not has_volume:
            raise PropertyNotImplementedError(
                f"{self.atoms.symbols} has no stress, because its cell {self.atoms.cell} has no volume."
            )
        self._wanted |= set(properties) - {"free_energy"}
        names = [name for name in self._wanted if has_volume or name != "stress"]
        self.results = _results(self.trained.predict(self.atoms, names))


def _results(found: dict[str, Any]) -> dict[str, Any]:
    results = {name: value.astype(float) if value.ndim else float(value) for name, value in found.items()}
    if "stress" in results:
        results["stress"] = full_3x3_to_voigt_6_stress(results["stress"])
    return {**results, "free_energy": results["energy"]}

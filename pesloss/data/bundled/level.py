"""The one level of theory of the bundled data: GFN1-xTB, by tblite."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.units import Bohr, Hartree
from jaxtyping import Float

from pesloss.data.bundled.sampling import RejectedError

METHOD = "GFN1-xTB"
ACCURACY = 0.01  # scales tblite's thresholds: the energy converges to 1e-8 Hartree
FIELD = 3e-4  # Hartree / (e Bohr): above the noise of the dipole, below the second hyperpolarizability


def singlepoint(
    atoms: Atoms, field: Float[np.ndarray, "3"] | None = None, unpaired: int = 0
) -> dict[str, Any]:
    """One self-consistent GFN1-xTB calculation gives every label of a neutral structure.

    The energy is the Mermin free energy at 300 K, of which forces and stress are the exact derivatives.
    Periodic cells are computed at the Γ point.

    Args:
        atoms: a molecule, or a cell that is periodic in three directions
        field: a uniform electric field, Hartree / (e Bohr)
        unpaired: number of unpaired electrons

    Returns:
        energy (eV), forces (eV/Å), charges (e) and gap (eV); dipole (e·Å) of a molecule; stress (3x3, eV/Å³,
        positive = tensile) of a cell.

    Raises:
        RejectedError: if the self-consistent field does not converge.
        ModuleNotFoundError: if tblite is not installed.

    References:
        Grimme, Bannwarth, Shushkov, J. Chem. Theory Comput. 13, 1989 (2017).
    """
    result = _converge(atoms, field, unpaired)
    labels = {
        "energy": float(result["energy"]) * Hartree,
        "forces": -result["gradient"] * (Hartree / Bohr),
        "charges": result["charges"],
        "gap": _gap(result),
    }
    if atoms.pbc.all():
        return labels | {"stress": result["virial"] * (Hartree / atoms.get_volume())}
    return labels | {"dipole": result["dipole"] * Bohr}


def polarizability(atoms: Atoms) -> Float[np.ndarray, "3 3"]:
    """The polarizability is the response of the dipole to a field: α_ij = dμ_j / dE_i by central differences.

    Returns:
        the symmetric tensor, e·Å per V/Å (= e²Å²/eV).
    """
    fields = FIELD * np.eye(3)
    rows = [singlepoint(atoms, f)["dipole"] - singlepoint(atoms, -f)["dipole"] for f in fields]
    alpha = np.array(rows) / (2 * FIELD * Hartree / Bohr)
    return (alpha + alpha.T) / 2


class GFN1(Calculator):
    """GFN1-xTB as an ASE calculator, for relaxations."""

    implemented_properties = ("energy", "forces", "stress")  # pyright: ignore[reportIncompatibleVariableOverride,reportAssignmentType]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        self.results.update(singlepoint(self.atoms))
        if "stress" in self.results:
            self.results["stress"] = self.results["stress"].flat[[0, 4, 8, 5, 2, 1]]


def _converge(atoms: Atoms, field: np.ndarray | None, unpaired: int) -> Any:
    try:  # here, because the rest of the package needs no tblite
        from tblite.exceptions import TBLiteRuntimeError
        from tblite.interface import Calculator as Tblite
        from tblite.library import ffi
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "computing the bundled labels needs tblite, which is not installed: pip install 'pesloss[tblite]'"
        ) from error
    periodic = (atoms.cell.array / Bohr, atoms.pbc) if atoms.pbc.all() else (None, None)
    tblite = Tblite(METHOD, atoms.numbers, atoms.positions / Bohr, 0.0, unpaired, *periodic)
    tblite.set("accuracy", ACCURACY)
    tblite.set("verbosity", 0)
    if field is not None:
        field = np.ascontiguousarray(field, dtype=float)
        tblite.add(
            "electric-field", ffi.cast("double*", field.ctypes.data)
        )  # an ndarray is refused by tblite 0.8
    try:
        return tblite.singlepoint()
    except TBLiteRuntimeError as error:
        raise RejectedError("the self-consistent field did not converge") from error


def _gap(result: Any) -> float:
    energies, occupations = result["orbital-energies"] * Hartree, result["orbital-occupations"]
    empty = energies[occupations < 1]
    return float(empty.min() - energies[occupations >= 1].max()) if len(empty) else np.inf

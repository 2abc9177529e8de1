"""Rank 8: reference energies, and energies divided by the number of atoms once too often."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import Hartree, kcal, mol

from pesloss.data import References
from tests.broken.doors import building, checking, loss, raising, reading, starting
from tests.broken.inputs import changed, crystals, labelled, molecules, without, written
from tests.broken.registry import Said, broken
from tests.checks import subjects

TOTAL = {"H": -13.6, "C": -1029.9, "O": -2041.8}
"""Of all electrons of an atom, in eV; effective-medium theory counts none."""


def total(num: int = 30) -> list[Atoms]:
    """Molecules with total energies of the size that an all-electron calculation gives."""
    frames = molecules(num)
    for frame in frames:
        frame.calc.results["energy"] += sum(TOTAL[symbol] for symbol in frame.get_chemical_symbols())
    return frames


def e_f() -> object:
    return subjects.loss("energy", "forces")


@broken(8, "mace#622", "raised", r"No reference energy for O; there is one for H, C")
def an_element_without_a_reference(folder: Path) -> Said:
    return starting(folder, molecules(), "loss=energy_forces", "data.references={H: -13.6, C: -1029.9}")


@broken(
    8,
    "mace#1452",
    "warning",
    r"energies are 5\.\d+ eV an atom .* These reference energies look wrong; data\.references=fit",
)
def references_of_another_method(folder: Path) -> Said:
    return checking(folder, total(), e_f(), references={"H": -16.0, "C": -1040.0, "O": -2050.0})


@broken(
    8,
    "mace!425",
    "warning",
    r"per atom O \+20\d\d eV, C \+10\d\d eV, .* These reference energies look wrong",
)
def references_that_are_subtracted_twice(folder: Path) -> Said:
    return checking(folder, molecules(30), e_f(), references=TOTAL)


@broken(
    8,
    "chgnet#222",
    "warning",
    r"look as if they are energies per atom: .* data\.units\.energy=eV/atom makes totals of them",
)
def energies_that_were_divided_already(folder: Path) -> Said:
    frames = total()
    for frame in frames:
        frame.calc.results["energy"] /= len(frame)
    return checking(folder, frames, e_f())


@broken(
    8,
    "torchmd-net#212",
    "error",
    r"energies rise by 0\.035\d* times the work against its forces .*: \+data\.units\.energy=Hartree",
)
def total_energies_in_hartree(folder: Path) -> Said:
    return checking(folder, changed(total(), energy=lambda energy: energy / Hartree), e_f())


@broken(
    8,
    "torchmd-net#212",
    "warning",
    r"in kcal/mol its energies would be those of all electrons .*\+data\.units\.energy=kcal/mol",
)
def total_energies_in_kcal(folder: Path) -> Said:
    return checking(folder, changed(total(), energy=lambda energy: energy * mol / kcal), e_f())


@broken(8, "agedi!82", "note", r"leave reference energies open .* rank 2 of 3 elements.* (arbitrary)")
def compositions_that_leave_references_open(folder: Path) -> Said:
    """Methanol and water: two equations for three elements."""
    frames = [frame for frame in molecules(30) if frame.get_chemical_formula() in ("CH4O", "H2O")]
    return checking(folder, frames, e_f())


@broken(
    8,
    "franken#38",
    "raised",
    r"No isolated atom with an energy for H, C, O; found no element.*config_type IsolatedAtom",
)
def isolated_atoms_that_are_not_there(folder: Path) -> Said:
    return starting(folder, molecules(), "loss=energy_forces", "data.references=isolated_atoms")


@broken(
    8,
    "orb-models#144",
    "raised",
    r"isolated atom H has -13\.4\d* eV, another one has -13\.6\d* eV; keep one of them",
)
def two_isolated_atoms_that_differ(folder: Path) -> Said:
    alone = [labelled(Atoms("H"), energy=energy) for energy in (-13.6, -13.4)]
    return starting(folder, [*alone, *molecules(6)], "loss=energy_forces", "data.references=isolated_atoms")


@broken(
    8,
    "deepmd-kit!1477",
    "raised",
    r"Unknown references 'average'.* Known: fit, isolated_atoms, none.* Energies by element",
)
def references_by_the_name_of_another_code(folder: Path) -> Said:
    return starting(folder, molecules(), "loss=energy_forces", "data.references=average")


@broken(
    8,
    "GPUMD#1444",
    "raised",
    r"isolated_atoms = .*atoms\.xyz is not used with references = 'fit'; choose references = "
    r"'isolated_atoms'",
)
def isolated_atoms_that_are_not_used(folder: Path) -> Said:
    path = written(folder, [labelled(Atoms("H"))], "atoms.xyz")
    return starting(folder, molecules(), "loss=energy_forces", f"data.isolated_atoms={path}")


@broken(8, "graph-pes#104", "raised", r"The reference energy of H must be finite, got nan")
def a_reference_that_is_nan(folder: Path) -> Said:
    return raising(lambda: References({"H": float("nan")}))


@broken(
    8,
    "chgnet#220",
    "raised",
    r"Unknown element 'Hy'; a symbol such as 'H' or an atomic number is accepted",
)
def a_reference_of_no_element(folder: Path) -> Said:
    return raising(lambda: References({"Hy": -13.6}))


@broken(
    8,
    "fairchem#1908",
    "warning",
    r"Energies of 1 structure are far from those of like structures, at worst by \+20 eV an atom",
)
def an_energy_that_did_not_converge(folder: Path) -> Said:
    frames = crystals(40)
    frames[5].calc.results["energy"] += 80.0
    return checking(folder, frames)


@broken(
    8,
    "metatrain!177",
    "raised",
    r"'forces' \(atom rows, intensive\) cannot be divided by the number of atoms",
)
def forces_per_atom(folder: Path) -> Said:
    return building(loss({"forces": {"residual": "per_atom"}}))


@broken(8, "nequip!79", "raised", r"Denominator 'atoms' is of structures, but 'forces' is of atoms")
def forces_over_the_number_of_atoms(folder: Path) -> Said:
    reduction = {"_target_": "pesloss.Mean", "denominator": "atoms"}
    return building(loss({"forces": {"reduction": reduction}}))


@broken(
    8,
    "torchmd-net#212",
    "raised",
    r"'energy' has no unit: neither the file nor its format says what it is in.*data\.units\.energy=kcal/mol",
)
def energies_of_an_archive_that_states_no_unit(folder: Path) -> Said:
    np.savez(
        folder / "md17.npz", z=[8, 1, 1], R=np.random.default_rng(0).normal(size=(4, 3, 3)), E=np.ones(4)
    )
    return reading(folder / "md17.npz", ("energy",))


@broken(8, "mace#1452", "raised", r"term 'energy' .* no training structure has a label")
def references_to_be_fitted_without_an_energy(folder: Path) -> Said:
    return starting(folder, without(molecules(), "energy"), "loss=energy_forces", "data.references=fit")

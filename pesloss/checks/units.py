"""Whether numbers can be in the units they are taken for, judged by the physics they obey."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii
from ase.units import Bohr, GPa, Hartree, Rydberg, kcal, kJ, mol
from jaxtyping import Bool, Float64, Int64

from pesloss.checks.findings import Finding, Level
from pesloss.checks.subject import Subject
from pesloss.checks.work import FEWEST, WRONG, Slope, Works, force_slope, stress_slope, virials, works
from pesloss.data.neighbors import Neighbors

KCAL, KJ = kcal / mol, kJ / mol

NOBLE = (2, 10, 18, 36, 54, 86)
REACH = 7.0  # Å, where bonds are looked for: those of the largest atoms, were they in bohr
BONDED = (0.7, 1.35)
"""Nearest neighbours over the sum of covalent radii: molecules have 0.9 to 1.1, metals 0.8 to 1.2."""
LENGTHS = {"bohr": Bohr, "nm": 10.0}
ATOMS_LOOKED_AT = 5000  # of a dataset, for bonds
SURE = 0.6  # share of atoms that have to agree

NEAR = 1.3  # factor within which a unit explains a number

LARGE_FORCE = 12.0  # eV/Å, median; liquid carbon has 3, molecules at 300 K in kcal/mol/Å have 34
LARGE_VIRIAL = (
    25.0  # eV an atom, median of volume · stress: 0.1 to 5 up to 200 GPa, 20 to 800 if GPa are read
)
TOTALS = {
    1: -0.4998,
    3: -7.478,
    5: -24.65,
    6: -37.845,
    7: -54.589,
    8: -75.067,
    9: -99.734,
    14: -289.36,
    15: -341.26,
    16: -398.11,
    17: -460.15,
}
"""Energies of light atoms with all their electrons, in Hartree; bonds change sums of them by under 2 %."""
SAME_TOTAL = 0.02
HEAVY = 5  # from this element on, the energy of the inner electrons tells the unit

ENERGIES = {"kcal/mol": KCAL, "kJ/mol": KJ, "Hartree": Hartree, "Ry": Rydberg, "meV": 1e-3}
FORCES = {
    "kcal/mol/Å": KCAL,
    "kJ/mol/Å": KJ,
    "kJ/mol/nm": KJ / 10,
    "Hartree/bohr": Hartree / Bohr,
    "Ry/bohr": Rydberg / Bohr,
    "eV/bohr": 1 / Bohr,
    "meV/Å": 1e-3,
}
STRESSES = {
    "GPa": GPa,
    "kbar": 0.1 * GPa,
    "bar": 1e-4 * GPa,
    "MPa": 1e-3 * GPa,
    "Hartree/bohr^3": Hartree / Bohr**3,
    "Ry/bohr^3": Rydberg / Bohr**3,
}
"""What is an eV, an eV/Å and an eV/Å³ to those who use other units."""


def units(subject: Subject) -> Iterator[Finding]:
    """Numbers in other units than they are taken for: lengths of bonds and the work along a path show them.

    Between two similar structures the energy rises by the work against the forces and the stress, whatever
    the method; bonds are about as long as covalent radii say; totals of all electrons are known; and forces
    and stresses have sizes that no matter exceeds.
    """
    for dataset, inside in subject.datasets():
        data = _Data(subject, dataset, np.flatnonzero(inside))
        yield from _bonds(data)
        yield from _totals(data)
        done = works(subject, data.rows)
        yield from _force_units(data, done)
        yield from _stress_units(data, done)


class _Data(NamedTuple):
    """A dataset."""

    subject: Subject
    name: str
    rows: Int64[np.ndarray, "structures"]

    @property
    def num_atoms(self) -> Int64[np.ndarray, "structures"]:
        return self.subject.store.structures["num_atoms"][self.rows]

    @property
    def of_atoms(self) -> Bool[np.ndarray, "atoms"]:
        """Which atoms of the store are its own."""
        chosen = np.zeros(len(self.subject.store), dtype=bool)
        chosen[self.rows] = True
        return chosen[self.subject.owner]

    def converted(self) -> str:
        """What was done on reading, as a sentence."""
        files = [file for file in self.subject.store.report.files if file.dataset == self.name]
        done = dict.fromkeys(f"{what} {words}" for file in files for what, words in file.changes.items())
        return f" On reading they were converted: {'; '.join(done)}." if done else ""


def _says(data: _Data, level: Level, message: str) -> Finding:
    return Finding(level, "units", f"Dataset '{data.name}': {message}{data.converted()}")


def _bonds(data: _Data) -> Iterator[Finding]:
    """Bond lengths in units of covalent radii."""
    ratios = bond_ratios(data.subject, data.rows)
    if len(ratios) < FEWEST or _bonded(ratios) >= SURE:
        return
    found = [name for name, size in LENGTHS.items() if _bonded(ratios * size) >= SURE]
    about = f"nearest neighbours are {np.median(ratios):.2g} times as far apart as covalent radii say"
    if found:
        hint = f"in {found[0]} they would be bonds: +data.units.length={found[0]}?"
        yield _says(data, "warning", f"{about}; {hint}")
    elif _bonded(ratios / Bohr) >= SURE:
        hint = "in Å they would be bonds, if these numbers were converted from bohr without being in bohr"
        yield _says(data, "warning", f"{about}; {hint}.")


def _bonded(ratios: Float64[np.ndarray, "atoms"]) -> float:
    return float(((BONDED[0] < ratios) & (ratios < BONDED[1])).mean())


def bond_ratios(subject: Subject, rows: Int64[np.ndarray, "structures"]) -> Float64[np.ndarray, "atoms"]:
    """Distance of the nearest neighbour over the sum of covalent radii, of some atoms; infinite if none."""
    num_atoms = subject.store.structures["num_atoms"]
    order = np.random.default_rng(0).permutation(rows[num_atoms[rows] > 1])
    most = ATOMS_LOOKED_AT // max(1, len(subject.data.datasets))
    chosen = order[: np.searchsorted(num_atoms[order].cumsum(), most) + 1]
    return np.concatenate([np.zeros(0), *(_bond_ratios(subject, int(row)) for row in chosen)])


def _bond_ratios(subject: Subject, row: int) -> Float64[np.ndarray, "atoms"]:
    store, atoms = subject.store, subject.atoms(row)
    numbers, positions = store.atoms["numbers"][atoms], store.atoms["positions"][atoms]
    cell = store.structures["cell"][row]
    (centre, other), shift = Neighbors(REACH)(positions, cell, store.structures["pbc"][row])
    lengths = np.linalg.norm(positions[other] - positions[centre] + shift @ cell, axis=1)
    radii, nearest = covalent_radii[numbers], np.full(len(numbers), np.inf)
    np.minimum.at(nearest, centre, lengths / (radii[centre] + radii[other]))
    return nearest[~np.isin(numbers, NOBLE)]


def _totals(data: _Data) -> Iterator[Finding]:
    """Energies that are those of all electrons in a unit that is not eV."""
    ratios = total_ratios(data.subject, data.rows)
    if len(ratios) < FEWEST:
        return
    for name, size in {"Hartree": Hartree, "Ry": Rydberg, "kcal/mol": KCAL, "kJ/mol": KJ}.items():
        same = np.abs(ratios * size / Hartree - 1) < SAME_TOTAL
        if same.mean() >= SURE:
            yield _says(
                data,
                "warning",
                f"in {name} its energies would be those of all electrons of the atoms within "
                f"{SAME_TOTAL:.0%}; they are taken for eV: +data.units.energy={name}?",
            )


def total_ratios(subject: Subject, rows: Int64[np.ndarray, "rows"]) -> Float64[np.ndarray, "structures"]:
    """Energy over that of the atoms with all their electrons in Hartree, of structures of light elements."""
    energy, store = subject.column("energy"), subject.store
    if energy is None:
        return np.zeros(0)
    table = np.full(256, np.nan)
    table[list(TOTALS)] = list(TOTALS.values())
    numbers = store.atoms["numbers"]
    totals = np.add.reduceat(table[numbers], store.atom_ptr[:-1])
    telling = np.maximum.reduceat(numbers, store.atom_ptr[:-1]) >= HEAVY
    ratios = (energy / totals)[rows[telling[rows]]]
    return ratios[np.isfinite(ratios)]


def _force_units(data: _Data, done: Works) -> Iterator[Finding]:
    """Forces against energies, or else by their size."""
    slope = force_slope(done)
    if slope.wrong:
        known = {f"+data.units.energy={name}": 1 / size for name, size in ENERGIES.items()}
        known |= {f"+data.units.forces={name}": size for name, size in FORCES.items()}
        known |= {"+data.units.length=bohr with forces in eV/Å": Bohr}
        found = [*_per_atom(force_slope(done.per_atom)), *_explained(slope.ratio, known, "forces")]
        rise = f"between similar structures its energies rise by {slope.ratio:.3g} times the work against its"
        yield _says(
            data,
            "error" if found else "warning",
            f"{rise} forces ({slope.pairs} pairs; it should be 1){_alternatives(found)}",
        )
    elif (size := _median_force(data)) > LARGE_FORCE:
        hint = "if its units are kcal/mol and kcal/mol/Å, say +data.units.energy=kcal/mol"
        yield _says(data, "warning", f"half of its forces are larger than {size:.3g} eV/Å; {hint}.")


def _median_force(data: _Data) -> float:
    """In eV/Å; 0 without any."""
    forces = data.subject.column("forces")
    if forces is None:
        return 0.0
    sizes = np.linalg.norm(forces[data.of_atoms], axis=1)
    known = sizes[np.isfinite(sizes)]
    return float(np.median(known)) if len(known) else 0.0


def _stress_units(data: _Data, done: Works) -> Iterator[Finding]:
    """Stresses against energies, or else by their size; their sign alone is for another check."""
    name, slope = "stress" if data.subject.column("stress") is not None else "virial", stress_slope(done)
    if slope.wrong and not 1 / WRONG < -slope.ratio < WRONG:
        known = {f"+data.units.{name}={unit}": size for unit, size in _units_of(name).items()}
        known |= {f"+data.units.energy={one}": 1 / size for one, size in ENERGIES.items()}
        known |= {"+data.units.length=bohr": Bohr**3} if name == "stress" else {}
        found = [*_per_atom(stress_slope(done.per_atom)), *_explained(slope.ratio, known, name)]
        rise = (
            f"between similar structures in strained cells its energies rise by {slope.ratio:.3g} times the"
        )
        yield _says(
            data,
            "error" if found else "warning",
            f"{rise} work against its {name} ({slope.pairs} pairs; it should be 1){_alternatives(found)}",
        )
    elif not slope.sure and (size := _median_virial(data)) > LARGE_VIRIAL:
        hint = " If it is in GPa or kbar, say +data.units.stress=GPa." if name == "stress" else ""
        yield _says(
            data,
            "warning",
            f"half of its structures have a virial larger than {size:.3g} eV an atom, more than matter has "
            f"below 1000 GPa.{hint}",
        )


def _units_of(name: str) -> Mapping[str, float]:
    return STRESSES if name == "stress" else ENERGIES


def _per_atom(slope: Slope) -> list[str]:
    """What to say if energies times the number of atoms were right."""
    right = slope.sure and 1 / NEAR < slope.ratio < NEAR
    return ["energies per atom: +data.units.energy=eV/atom"] if right else []


def _median_virial(data: _Data) -> float:
    """Norm of volume · stress per atom, in eV; 0 without any."""
    sizes = np.linalg.norm(virials(data.subject, data.rows), axis=(1, 2)) / data.num_atoms
    known = sizes[np.isfinite(sizes)]
    return float(np.median(known)) if len(known) else 0.0


def _explained(ratio: float, known: Mapping[str, float], name: str) -> list[str]:
    """The options that make a ratio 1, the nearest first, with that of the sign if it needs one."""
    sign = f"+data.signs.{name}=-1" if ratio < 0 else ""
    if sign and 1 / WRONG < -ratio < WRONG:
        return [sign]
    off = {words: abs(math.log(abs(ratio) / size)) for words, size in known.items()}
    near = sorted((words for words in known if off[words] < math.log(NEAR)), key=off.__getitem__)
    return [f"{words} with {sign}" if sign else words for words in near]


def _alternatives(found: Sequence[str]) -> str:
    return f": {' or '.join(found)}?" if found else ". No unit explains it; are both of one calculation?"

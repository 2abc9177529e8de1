"""Regenerate, check and compare the bundled data.

``python -m pesloss.data.bundled.generate --out DIR`` writes every file anew; ``--check`` compares the labels
with finite differences of the energy; ``--compare`` computes the labels of the package again at the stored
geometries, and compares the new files of ``--out`` with those of the package.
"""

from __future__ import annotations

import argparse
import gzip
import io
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.units import Bohr, Hartree
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pesloss.data.bundled import FILES, crystals, molecules
from pesloss.data.bundled.level import FIELD, polarizability, singlepoint

DECIMALS = {"energy": 8, "forces": 8, "stress": 10, "dipole": 8, "charges": 8, "polarizability": 8}
TOLERANCES = {
    "energy": 1e-6,  # eV
    "forces": 1e-5,  # eV/Å
    "stress": 1e-7,  # eV/Å³
    "dipole": 1e-5,  # e·Å
    "charges": 1e-5,  # e
    "polarizability": 1e-4,  # e·Å per V/Å
}
# the ground states of the isolated atoms, by Hund's rules
UNPAIRED = {
    "H": 1,
    "Li": 1,
    "B": 1,
    "C": 2,
    "N": 3,
    "O": 2,
    "F": 1,
    "Na": 1,
    "Si": 2,
    "S": 2,
    "Cl": 1,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 1 if a label is off, else 0."""
    parser = argparse.ArgumentParser(prog="python -m pesloss.data.bundled.generate", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the data anew into this folder")
    parser.add_argument(
        "--check", action="store_true", help="compare labels with finite differences of the energy"
    )
    parser.add_argument(
        "--compare", action="store_true", help="compute the packaged labels again and compare"
    )
    options = parser.parse_args(arguments)
    if not (options.out or options.check or options.compare):
        parser.error("choose at least one of --out, --check and --compare")
    passed = True
    if options.out:
        generate(options.out)
    if options.check:
        passed &= _show("finite differences", check())
    if options.compare:
        passed &= _compare(options.out)
    return 0 if passed else 1


def generate(folder: Path) -> None:
    """Write the three files of the bundled data into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rejected: Counter[str] = Counter()
    for name, frames in (
        ("molecules", _molecules(rejected)),
        ("crystals", _crystals(rejected)),
        ("isolated_atoms", _isolated_atoms()),
    ):
        _write(folder / FILES[name].name, list(frames))
    table = Table("draws rejected and drawn again", "times")
    for reason, times in rejected.most_common():
        table.add_row(reason, str(times))
    Console(stderr=True).print(table)


def labelled(
    atoms: Atoms, config_type: str, *, response: bool = False, unpaired: int = 0, **info: object
) -> Atoms:
    """A structure with its labels, rounded as they are written.

    Args:
        atoms: a structure with a name in its ``info``
        response: also computes the polarizability
        unpaired: number of unpaired electrons
    """
    labels = singlepoint(atoms, unpaired=unpaired)
    labels = {key: np.round(labels[key], DECIMALS[key]) + 0.0 for key in _kept(atoms)}
    labels["energy"] = float(labels["energy"])
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    frame.info = {"name": atoms.info["name"], "config_type": config_type, "charge": 0, **info}
    if response:
        frame.info["polarizability"] = np.round(polarizability(atoms), DECIMALS["polarizability"]) + 0.0
    if "stress" in labels:
        labels["stress"] = labels["stress"].flat[[0, 4, 8, 5, 2, 1]]
    frame.calc = SinglePointCalculator(frame, **labels)
    return frame


def relabelled(frame: Atoms) -> Atoms:
    """A labelled frame with the same labels computed again at the same geometry."""
    response, unpaired = "polarizability" in frame.info, int(frame.info.get("unpaired_electrons", 0))
    return labelled(frame, frame.info["config_type"], response=response, unpaired=unpaired)


def _kept(atoms: Atoms) -> tuple[str, ...]:
    if atoms.pbc.all():
        return "energy", "forces", "stress"
    return ("energy", "forces", "dipole", "charges") if len(atoms) > 1 else ("energy",)


def check() -> dict[str, tuple[float, float]]:
    """Largest difference between labels and central differences of the energy, with what is allowed.

    Forces and dipole of a displaced molecule, forces and stress of a rattled crystal.
    """
    molecule = _first("molecules", "thermal", "CH3CH2OH")
    crystal = _first("crystals", "rattled", "heterodiamond")
    return {
        "forces of ethanol, eV/Å": (_force_error(molecule), 1e-3),
        "dipole of ethanol, e·Å": (_dipole_error(molecule), 1e-4),
        "forces of heterodiamond, eV/Å": (_force_error(crystal), 1e-3),
        "stress of heterodiamond, eV/Å³": (_stress_error(crystal), 2e-5),
    }


def labels_of(frame: Atoms) -> dict[str, np.ndarray]:
    """Every label that a frame carries, by property."""
    found = {**frame.info, **(frame.calc.results if frame.calc else {})}
    return {key: np.asarray(found[key]) for key in DECIMALS if key in found}


def deviations(first: Sequence[Atoms], second: Sequence[Atoms]) -> dict[str, tuple[float, float]]:
    """Largest deviation between two sets of the same frames by property, with what is allowed.

    Raises:
        ValueError: if they are not the same frames with the same labels.
    """
    _check_same(first, second)
    largest: dict[str, float] = {}
    for one, other in zip(map(labels_of, first), map(labels_of, second), strict=True):
        for key, value in one.items():
            largest[key] = max(largest.get(key, 0.0), float(np.abs(value - other[key]).max()))
    return {key: (value, TOLERANCES[key]) for key, value in largest.items()}


def _check_same(first: Sequence[Atoms], second: Sequence[Atoms]) -> None:
    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} frames cannot be compared with {len(second)}; the numbers must be equal"
        )
    for row, (one, other) in enumerate(zip(first, second, strict=True)):
        found = [(f.info["name"], f.info["config_type"], len(f), *labels_of(f)) for f in (one, other)]
        if found[0] != found[1]:
            raise ValueError(
                f"frame {row} is {found[0]} in one set and {found[1]} in the other; they must be the same"
            )


def _molecules(rejected: Counter[str]) -> Iterator[Atoms]:
    parents = track(molecules.parents(rejected), "molecules", total=molecules.NUM_PARENTS)
    for index, parent in enumerate(parents):
        yield labelled(parent, "equilibrium", response=index % 2 == 0)
        for k, (temperature, atoms) in enumerate(molecules.displaced(parent, index, rejected), start=1):
            yield labelled(atoms, "thermal", response=(index + k) % 2 == 0, temperature=temperature)


def _crystals(rejected: Counter[str]) -> Iterator[Atoms]:
    for index, name in enumerate(track(list(crystals.starts()), "crystals")):
        for config_type, atoms in crystals.frames(name, index, rejected):
            yield labelled(atoms, config_type)


def _isolated_atoms() -> Iterator[Atoms]:
    for symbol, unpaired in track(list(UNPAIRED.items()), "isolated atoms"):
        atoms = Atoms(symbol, info={"name": symbol})
        yield labelled(atoms, "IsolatedAtom", unpaired=unpaired, unpaired_electrons=unpaired)


def _write(path: Path, frames: list[Atoms]) -> None:
    text = io.StringIO()
    write(text, frames, format="extxyz")
    data = text.getvalue().encode()
    # no time and no file name: the same frames are the same bytes
    path.write_bytes(gzip.compress(data, compresslevel=9, mtime=0) if path.suffix == ".gz" else data)


def _read(path: Path) -> list[Atoms]:
    return read(path, ":")  # pyright: ignore[reportReturnType]  a slice gives a list


def _compare(folder: Path | None) -> bool:
    """The labels are robust at the stored geometries; a second generation is compared where there is one."""
    passed = True
    for name, path in FILES.items():
        stored = _read(path)
        again = [relabelled(frame) for frame in track(stored, f"labels of {name}")]
        passed &= _show(f"{name}: labels computed again at the stored geometries", deviations(stored, again))
        if folder:
            passed &= _show(f"{name}: generated again", deviations(stored, _read(folder / path.name)))
    return passed


def _show(title: str, found: dict[str, tuple[float, float]]) -> bool:
    table = Table("", "largest deviation", "allowed", title=title)
    for key, (value, allowed) in found.items():
        table.add_row(key, f"{value:.1e}", f"{allowed:.0e}", style=None if value <= allowed else "red")
    Console().print(table)
    return all(value <= allowed for value, allowed in found.values())


def _first(name: str, config_type: str, parent: str) -> Atoms:
    frames = _read(FILES[name])
    return next(f for f in frames if (f.info["config_type"], f.info["name"]) == (config_type, parent))


def _energy(atoms: Atoms, field: np.ndarray | None = None) -> float:
    return float(singlepoint(atoms, field)["energy"])


def _force_error(frame: Atoms, step: float = 1e-3) -> float:
    errors = []
    for i, j in ((0, 0), (1, 1), (len(frame) - 1, 2)):
        moved = [frame.copy(), frame.copy()]
        for atoms, sign in zip(moved, (1, -1), strict=True):
            atoms.positions[i, j] += sign * step
        slope = (_energy(moved[0]) - _energy(moved[1])) / (2 * step)
        errors.append(abs(slope + labels_of(frame)["forces"][i, j]))
    return max(errors)


def _dipole_error(frame: Atoms) -> float:
    fields = FIELD * np.eye(3)
    slopes = [_energy(frame, field=f) - _energy(frame, field=-f) for f in fields]
    return float(np.abs(np.array(slopes) / (2 * FIELD * Hartree / Bohr) + labels_of(frame)["dipole"]).max())


def _stress_error(frame: Atoms, step: float = 5e-4) -> float:
    errors = []
    for (i, j), stress in zip(
        ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)), labels_of(frame)["stress"], strict=True
    ):
        strain = np.zeros((3, 3))
        strain[i, j] += step / 2
        strain[j, i] += step / 2
        work = _energy(crystals.deform(frame, strain)) - _energy(crystals.deform(frame, -strain))
        errors.append(abs(work / (2 * step) / frame.get_volume() - stress))
    return max(errors)


if __name__ == "__main__":
    sys.exit(main())

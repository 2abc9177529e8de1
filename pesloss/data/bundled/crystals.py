"""Crystals with 8 to 16 atoms in the cell: stretched, sheared and rattled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.spacegroup import crystal
from jaxtyping import Float
from numpy.random import RandomState

from pesloss.data.bundled.level import GFN1, singlepoint
from pesloss.data.bundled.sampling import RejectedError, draw

STRETCHES = (-0.03, -0.015, 0.0, 0.015, 0.03)  # of every length: volumes within 9 %
NUM_STRAINED = 2
LARGEST_STRAIN = 0.05
SMALL_STRAIN = 0.02  # of the rattled cells
MOLECULAR = frozenset(("ice", "hydrogen_fluoride", "dry_ice", "acetylene", "urea"))
RATTLES = {False: (0.03, 0.06, 0.12), True: (0.02, 0.03, 0.05)}  # Å, by whether the crystal is molecular
MAX_FORCE = 15.0  # eV/Å


def starts() -> dict[str, Atoms]:
    """Covalent and ionic solids and molecular crystals, near their measured structures.

    Chosen among those that GFN1-xTB describes at the Γ point: it converges, it has a minimum near the
    measured volume, no level crosses the gap there, and the crystal is stable when rattled. Si, Ge, MgO, LiF,
    LiH, KCl, AlN, AlP, GaAs, GaP and ZnS fail one of these.
    """
    diamond = {"crystalstructure": "zincblende", "cubic": True}
    rocksalt = {"crystalstructure": "rocksalt", "cubic": True}
    return {
        "diamond": bulk("C", "diamond", a=3.61, cubic=True),
        "silicon_carbide": bulk("SiC", a=4.52, **diamond),
        "boron_nitride": bulk("BN", a=3.67, **diamond),
        "heterodiamond": _replace(bulk("BN", a=3.66, **diamond), dict.fromkeys(range(4), "C")),
        "carbon_rich_heterodiamond": _replace(bulk("BN", a=3.65, **diamond), dict.fromkeys(range(6), "C")),
        "rock_salt": bulk("NaCl", a=5.60, **rocksalt),
        "lithium_chloride": bulk("LiCl", a=5.24, **rocksalt),
        "lithium_sodium_chloride": _replace(bulk("NaCl", a=5.32, **rocksalt), dict.fromkeys((0, 2), "Li")),
        "sodium_rich_chloride": _replace(bulk("NaCl", a=5.45, **rocksalt), {0: "Li"}),
        "cristobalite": _crystal(["Si", "O"], [(0, 0, 0), (0.09, 0.25, 0.125)], 122, (5.2, 5.2, 7.4)),
        "quartz": _crystal(
            ["Si", "O"], [(0.47, 0, 1 / 3), (0.413, 0.267, 0.214)], 152, (4.92, 4.92, 5.41), 120.0
        ),
        "ice": _ice(6.36),
        "hydrogen_fluoride": _crystal(
            ["F", "H"], [(0, 0.1236, 0), (0, 0.0293, 0.191)], 36, (3.31, 5.22, 4.26)
        ),
        "dry_ice": _crystal(["C", "O"], [(0, 0, 0), (0.118, 0.118, 0.118)], 205, (5.55, 5.55, 5.55)),
        "acetylene": _crystal(
            ["C", "H"], [(0.057, 0.057, 0.057), (0.158, 0.158, 0.158)], 205, (6.05, 6.05, 6.05)
        ),
        "urea": _crystal(
            ["C", "O", "N", "H", "H"],
            [
                (0, 0.5, 0.326),
                (0, 0.5, 0.595),
                (0.146, 0.646, 0.177),
                (0.258, 0.758, 0.283),
                (0.144, 0.644, -0.038),
            ],
            113,
            (5.565, 5.565, 4.684),
        ),
    }


def relaxed(name: str, index: int, rejected: Counter[str]) -> Atoms:
    """Atoms and cell of a crystal at the minimum of the GFN1-xTB energy, with the rounding of the file."""
    start = starts()[name]

    def relax(rng: RandomState) -> Atoms:
        # the self-consistent field can fail at one volume and not beside it
        atoms = deform(start, 0.01 * rng.uniform(-1, 1) * np.eye(3))
        atoms.calc = GFN1()
        optimizer = BFGS(FrechetCellFilter(atoms), logfile=None, maxstep=0.1)  # pyright: ignore[reportArgumentType]
        if not optimizer.run(fmax=0.005, steps=300):
            raise RejectedError("the relaxation of a crystal did not converge")
        return _plain(atoms, name)

    return draw(relax, (5, index), rejected)


def frames(name: str, index: int, rejected: Counter[str]) -> Iterator[tuple[str, Atoms]]:
    """The ten cells of a crystal by kind: a series of volumes without rattle, strained and rattled cells."""
    parent = relaxed(name, index, rejected)
    for stretch in STRETCHES:
        kind = "volume" if stretch else "equilibrium"
        yield kind, _plain(deform(parent, stretch * np.eye(3)), name)
    for k in range(NUM_STRAINED):

        def strained(rng: RandomState) -> Atoms:
            return _checked(deform(parent, _strain(rng, LARGEST_STRAIN)), name)

        yield "strained", draw(strained, (3, index, k), rejected)
    for k, width in enumerate(RATTLES[name in MOLECULAR]):

        def rattled(rng: RandomState, width: float = width) -> Atoms:
            return _checked(_rattle(parent, width, rng), name)

        yield "rattled", draw(rattled, (4, index, k), rejected)


def deform(atoms: Atoms, strain: Float[np.ndarray, "3 3"]) -> Atoms:
    """Cell and atoms follow a homogeneous strain: r → r (1 + ε)."""
    deformed = atoms.copy()
    deformed.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return deformed


def _strain(rng: RandomState, largest: float) -> Float[np.ndarray, "3 3"]:
    strain = rng.uniform(-largest, largest, (3, 3))
    return (strain + strain.T) / 2


def _rattle(parent: Atoms, width: float, rng: RandomState) -> Atoms:
    atoms = deform(parent, _strain(rng, SMALL_STRAIN))
    atoms.positions += width * rng.standard_normal(atoms.positions.shape)
    return atoms


def _checked(atoms: Atoms, name: str) -> Atoms:
    atoms = _plain(atoms, name)
    if np.linalg.norm(singlepoint(atoms)["forces"], axis=1).max() > MAX_FORCE:
        raise RejectedError(f"a force in a crystal exceeds {MAX_FORCE:g} eV/Å")
    return atoms


def _plain(atoms: Atoms, name: str) -> Atoms:
    cell, positions = (np.round(x, 8) + 0.0 for x in (atoms.cell.array, atoms.positions))
    return Atoms(atoms.numbers, positions, cell=cell, pbc=True, info={"name": name})


def _replace(atoms: Atoms, symbols: dict[int, str]) -> Atoms:
    for i, symbol in symbols.items():
        atoms.symbols[i] = symbol
    return atoms


def _crystal(
    symbols: list[str],
    basis: list[tuple[float, ...]],
    spacegroup: int,
    lengths: tuple[float, ...],
    gamma: float = 90.0,
) -> Atoms:
    return crystal(symbols, basis, spacegroup=spacegroup, cellpar=[*lengths, 90.0, 90.0, gamma])


def _ice(length: float) -> Atoms:
    """Cubic ice, protons ordered: the oxygens of a diamond lattice give protons to their bonds towards +z."""
    towards = {0.0: ((1, 1, 1), (-1, -1, 1)), 0.25: ((-1, 1, 1), (1, -1, 1))}
    atoms = Atoms(cell=length / 2 * np.array([(1, 1, 0), (-1, 1, 0), (0, 0, 2)]), pbc=True)
    for site in ((0, 0, 0), (0.5, 0, 0.5)):
        for shift, bonds in towards.items():
            oxygen = length * (np.array(site) + shift)
            hydrogens = [oxygen + 0.98 * np.array(bond) / 3**0.5 for bond in bonds]
            atoms += Atoms("OH2", [oxygen, *hydrogens])
    return atoms

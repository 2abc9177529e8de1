"""Molecules of H C N O F S Cl with 3 to 25 atoms, at rest and thermally displaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.collections import g2
from ase.data import covalent_radii
from ase.optimize import BFGS
from ase.units import _amu, _e, _hbar, invcm, kB
from jaxtyping import Float
from numpy.random import RandomState

from pesloss.data.bundled.level import GFN1, singlepoint
from pesloss.data.bundled.sampling import RejectedError, draw

ELEMENTS = frozenset(("H", "C", "N", "O", "F", "S", "Cl"))
NUM_PARENTS = 150
LARGEST = 25
TEMPERATURES = (300.0, 600.0, 1000.0)  # K
SOFTEST = 300 * invcm  # eV; softer modes move along curves, and a straight step that long would stretch bonds
MAX_FORCE = 15.0  # eV/Å
OPEN_SHELL = frozenset(("CH2_s3B1d",))  # the other triplets of g2 are diatomic
# what the larger molecules are joined from
SUBSTITUENTS = (
    *(
        "CH4",
        "H2O",
        "NH3",
        "HF",
        "HCl",
        "SH2",
        "HCN",
        "H2CO",
        "CH3OH",
        "CH3SH",
        "HCF3",
        "H2CF2",
        "HCCl3",
        "H2CCl2",
    ),
    *("HCOOH", "C2H4", "C2H2", "C2H6", "C6H6", "C4H4S", "C4H4O", "C5H5N", "C3H6_D3h", "CH3CONH2", "CH3NO2"),
    *("CH2SCH2", "CH3SCH3", "C2H6SO", "CH3COF", "CH3COCl", "CH3COCH3", "CH3ONO", "C2H6NH", "C3H9N", "C4H4NH"),
)


def parents(rejected: Counter[str]) -> Iterator[Atoms]:
    """Each parent is a minimum of the GFN1-xTB energy: a molecule of the G2 set, or one joined from them.

    The joined molecules have 11 to 25 atoms, as many of each size. No molecule and no name comes twice.
    """
    seen: list[Atoms] = []
    small = _g2()
    for index, start in enumerate(small):
        seen.append(draw(lambda rng, start=start: _new(start, seen, rng), (0, index), rejected))
        yield _plain(seen[-1])
    for index in range(NUM_PARENTS - len(small)):
        size = 11 + index % (LARGEST - 10)
        seen.append(draw(lambda rng, size=size: _new(_assemble(size, rng), seen, rng), (1, index), rejected))
        yield _plain(seen[-1])


def displaced(parent: Atoms, index: int, rejected: Counter[str]) -> Iterator[tuple[float, Atoms]]:
    """A molecule at each temperature: a structure drawn from its harmonic Boltzmann distribution."""
    hessian = _hessian(parent)
    for temperature in TEMPERATURES:

        def sample(rng: RandomState, temperature: float = temperature) -> Atoms:
            return _checked(_boltzmann(parent, hessian, temperature, rng), parent)

        yield temperature, draw(sample, (2, index, int(temperature)), rejected)


def join(first: Atoms, i: int, second: Atoms, j: int, torsion: float) -> Atoms:
    """Two molecules become one: each loses a hydrogen, and the atoms that bore them form a single bond.

    Args:
        i: the hydrogen that `first` loses
        j: the hydrogen that `second` loses
        torsion: rotation of `second` about the new bond, degrees
    """
    a, b = _bearer(first, i), _bearer(second, j)
    axis = first.positions[i] - first.positions[a]
    moved = second.copy()
    moved.rotate(moved.positions[b] - moved.positions[j], axis)
    moved.rotate(torsion, axis)
    bond = axis / np.linalg.norm(axis) * covalent_radii[[first.numbers[a], second.numbers[b]]].sum()
    moved.translate(first.positions[a] + bond - moved.positions[b])
    return first[np.arange(len(first)) != i] + moved[np.arange(len(moved)) != j]


def bonds(atoms: Atoms, stretch: float = 1.25) -> frozenset[tuple[int, int]]:
    """Two atoms are bonded when they are closer than `stretch` times the sum of their covalent radii."""
    radii = covalent_radii[atoms.numbers]
    bonded = np.triu(atoms.get_all_distances() < stretch * (radii[:, None] + radii), k=1)
    return frozenset((int(i), int(j)) for i, j in zip(*np.nonzero(bonded), strict=True))


def _g2() -> list[Atoms]:
    named = [_named(name) for name in g2.names if name not in OPEN_SHELL]
    wanted = [a for a in named if len(a) >= 3 and ELEMENTS.issuperset(a.symbols) and sum(a.numbers) % 2 == 0]
    return sorted(wanted, key=len)


def _named(name: str) -> Atoms:
    atoms = g2[name]
    atoms.info["name"] = name
    return atoms


def _assemble(size: int, rng: RandomState) -> Atoms:
    """Join randomly drawn molecules until there are `size` atoms."""
    atoms = _substituent(size, rng)
    while len(atoms) < size:
        other = _substituent(size - len(atoms) + 2, rng)
        name = f"{atoms.info['name']}+{other.info['name']}"
        i, j = _hydrogen(atoms, rng), _hydrogen(other, rng)
        if 6 not in (atoms.numbers[_bearer(atoms, i)], other.numbers[_bearer(other, j)]):
            raise RejectedError("neither end of the new bond is carbon")
        atoms = _least_crowded(atoms, i, other, j)
        atoms.info["name"] = name
    return atoms


def _substituent(largest: int, rng: RandomState) -> Atoms:
    fitting = [atoms for atoms in map(_named, SUBSTITUENTS) if len(atoms) <= largest]
    return fitting[rng.randint(len(fitting))]


def _hydrogen(atoms: Atoms, rng: RandomState) -> int:
    hydrogens = np.flatnonzero(atoms.numbers == 1)
    if len(hydrogens) == 0:
        raise RejectedError("no hydrogen is left to replace")
    return int(hydrogens[rng.randint(len(hydrogens))])


def _least_crowded(first: Atoms, i: int, second: Atoms, j: int) -> Atoms:
    candidates = [join(first, i, second, j, torsion) for torsion in range(0, 360, 15)]
    joined = max(candidates, key=lambda atoms: _closest_approach(atoms, len(first) - 1))
    if len(bonds(joined)) != len(bonds(first)) + len(bonds(second)) - 1:
        raise RejectedError("the joined molecules overlap")
    return joined


def _closest_approach(atoms: Atoms, num_first: int) -> float:
    # the bond itself is the same in every candidate, so the second smallest distance decides
    return float(np.partition(atoms.get_all_distances()[:num_first, num_first:], 1, axis=None)[1])


def _bearer(atoms: Atoms, hydrogen: int) -> int:
    distances = atoms.get_distances(hydrogen, range(len(atoms)))
    distances[hydrogen] = np.inf
    return int(distances.argmin())


def _new(start: Atoms, seen: list[Atoms], rng: RandomState) -> Atoms:
    """The relaxed molecule, if none of the seen ones has its name, or its formula and its energy."""
    if start.info["name"] in {other.info["name"] for other in seen}:
        raise RejectedError("the name is taken")
    atoms = _relaxed(start, rng)
    isomers = [other for other in seen if sorted(other.numbers) == sorted(atoms.numbers)]
    if any(abs(atoms.get_potential_energy() - other.get_potential_energy()) < 0.005 for other in isomers):
        raise RejectedError("the molecule is there already")
    return atoms


def _relaxed(start: Atoms, rng: RandomState) -> Atoms:
    atoms = start.copy()
    # a start of high symmetry would stay on a saddle point until rounding errors choose the way down
    atoms.positions += 0.02 * rng.standard_normal(atoms.positions.shape)
    atoms.calc = GFN1()
    if not BFGS(atoms, logfile=None, maxstep=0.2).run(fmax=0.02, steps=400):
        raise RejectedError("the relaxation did not converge")
    if bonds(atoms) != bonds(start):
        raise RejectedError("the relaxation changed the bonds")
    if singlepoint(atoms)["gap"] < 1.0:
        raise RejectedError("the gap is below 1 eV")
    return atoms


def _plain(atoms: Atoms) -> Atoms:
    """Centred, with the rounding of the file: what is labelled is what is written."""
    positions = np.round(atoms.positions - atoms.get_center_of_mass(), 8) + 0.0
    return Atoms(atoms.numbers, positions, info={"name": atoms.info["name"]})


def _hessian(atoms: Atoms, step: float = 0.005) -> Float[np.ndarray, "n n"]:
    """Forward differences of the forces, eV/Å²: a draw of displacements needs no more."""
    here = singlepoint(atoms)["forces"]
    moves = step * np.eye(3 * len(atoms)).reshape(-1, len(atoms), 3)
    moved = [Atoms(atoms.numbers, atoms.positions + move) for move in moves]
    hessian = np.array([(here - singlepoint(atoms)["forces"]).ravel() / step for atoms in moved])
    return (hessian + hessian.T) / 2


def _boltzmann(
    atoms: Atoms, hessian: Float[np.ndarray, "n n"], temperature: float, rng: RandomState
) -> Atoms:
    """A draw from the harmonic Boltzmann distribution: x = m^{-1/2} (kT / D)^{1/2} z, D the dynamical matrix.

    A function of the whole matrix, not of single eigenvectors, whose signs and mixtures are arbitrary: the
    same random numbers give the same structure on every machine.
    """
    masses = np.repeat(atoms.get_masses(), 3) ** 0.5
    internal = _internal_projector(atoms)
    eigenvalues, modes = np.linalg.eigh(internal @ (hessian / np.outer(masses, masses)) @ internal)
    softest = (SOFTEST / (_hbar * 1e10 / (_e * _amu) ** 0.5)) ** 2  # eV/(Å² amu)
    amplitudes = (kB * temperature / np.maximum(eigenvalues, softest)) ** 0.5
    noise = internal @ rng.standard_normal(len(masses))
    step = (internal @ (modes @ (amplitudes * (modes.T @ noise)))) / masses
    return Atoms(atoms.numbers, atoms.positions + step.reshape(-1, 3), info=atoms.info)


def _internal_projector(atoms: Atoms) -> Float[np.ndarray, "n n"]:
    """Projects mass-weighted displacements on those that neither translate nor rotate the molecule."""
    arms = atoms.positions - atoms.get_center_of_mass()
    rigid = [np.tile(e, len(atoms)) for e in np.eye(3)] + [np.cross(e, arms).ravel() for e in np.eye(3)]
    weighted = np.array(rigid) * np.repeat(atoms.get_masses(), 3) ** 0.5
    _, singular, vectors = np.linalg.svd(weighted, full_matrices=False)
    kept = vectors[singular > 1e-3 * singular[0]]  # a linear molecule does not rotate about its axis
    return np.eye(3 * len(atoms)) - kept.T @ kept


def _checked(atoms: Atoms, parent: Atoms) -> Atoms:
    atoms = _plain(atoms)
    if not bonds(parent) <= bonds(atoms, stretch=1.4):
        raise RejectedError("a bond of the thermal structure is broken")
    labels = singlepoint(atoms)
    if np.linalg.norm(labels["forces"], axis=1).max() > MAX_FORCE:
        raise RejectedError(f"a force exceeds {MAX_FORCE:g} eV/Å")
    if labels["gap"] < 0.5:
        raise RejectedError("the gap of the thermal structure is below 0.5 eV")
    return atoms

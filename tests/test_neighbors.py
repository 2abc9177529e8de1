"""Neighbour lists hold every pair within the cutoff, as ASE's own lists do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from pesloss.data import Neighbors

TRICLINIC = np.array([[4.0, 0.0, 0.0], [1.5, 3.5, 0.0], [-1.0, 1.2, 5.0]])


def scattered(cell, pbc) -> Atoms:
    """Atoms far outside the cell too."""
    return Atoms("H5", positions=np.random.default_rng(0).uniform(-9, 9, (5, 3)), cell=cell, pbc=pbc)


SYSTEMS = {
    "molecule": molecule("CH3CH2OH"),
    "one atom": Atoms("H"),
    "crystal smaller than the cutoff": bulk("Cu"),
    "left-handed": scattered(np.eye(3)[[1, 0, 2]] * 4, True),
}
for periodic in itertools.product([False, True], repeat=3):
    SYSTEMS[f"oblique {periodic}"] = scattered(TRICLINIC, periodic)
    SYSTEMS[f"no vector where not periodic {periodic}"] = scattered(
        TRICLINIC * np.array(periodic)[:, None], periodic
    )


def pairs(index, shift) -> list[tuple[int, ...]]:
    return sorted(map(tuple, np.column_stack([*index, shift]).astype(int).tolist()))


@pytest.mark.parametrize("cutoff", [3.0, 8.0])
@pytest.mark.parametrize("atoms", SYSTEMS.values(), ids=SYSTEMS)
def test_same_pairs_as_ase(atoms, cutoff):
    index, shift = Neighbors(cutoff)(atoms.positions, atoms.cell.array, atoms.pbc)
    i, j, expected = neighbor_list("ijS", atoms, cutoff)
    assert pairs(index, shift) == pairs(np.stack([i, j]), expected)


@pytest.mark.parametrize("atoms", SYSTEMS.values(), ids=SYSTEMS)
def test_pairs_go_both_ways_are_within_the_cutoff_and_sorted_by_centre(atoms):
    index, shift = Neighbors(6.0)(atoms.positions, atoms.cell.array, atoms.pbc)
    assert pairs(index, shift) == pairs(index[::-1], -shift)
    vectors = atoms.positions[index[1]] - atoms.positions[index[0]] + shift @ atoms.cell.array
    assert (np.linalg.norm(vectors, axis=1) <= 6.0).all()
    assert (np.diff(index[0]) >= 0).all()


def test_one_list_serves_many_structures():
    neighbors = Neighbors(4.0)
    first = [neighbors(a.positions, a.cell.array, a.pbc) for a in SYSTEMS.values()]
    alone = [Neighbors(4.0)(a.positions, a.cell.array, a.pbc) for a in SYSTEMS.values()]
    for (index, shift), (same_index, same_shift) in zip(first, alone, strict=True):
        assert pairs(index, shift) == pairs(same_index, same_shift)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), float("inf")])
def test_a_cutoff_is_a_length(cutoff):
    with pytest.raises(ValueError, match="cutoff must be a positive length in Å"):
        Neighbors(cutoff)

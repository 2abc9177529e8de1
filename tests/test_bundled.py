from __future__ import annotations

import importlib.util
from collections import Counter, defaultdict
from functools import cache

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read
from ase.units import kB
from numpy.random import RandomState

from pesloss.data.bundled import FILES
from pesloss.data.bundled.crystals import deform
from pesloss.data.bundled.generate import TOLERANCES, check, deviations, labels_of, main, relabelled
from pesloss.data.bundled.molecules import bonds, join
from pesloss.data.bundled.sampling import RejectedError, draw

needs_tblite = pytest.mark.skipif(
    importlib.util.find_spec("tblite") is None,
    reason="tblite is not installed: pip install 'pesloss[tblite]'",
)


@cache
def frames(name: str) -> list[Atoms]:
    return read(FILES[name], ":")


@pytest.fixture(scope="module")
def molecules():
    return frames("molecules")


@pytest.fixture(scope="module")
def crystals():
    return frames("crystals")


@pytest.fixture(scope="module")
def isolated():
    return frames("isolated_atoms")


def by_parent(frames):
    parents = defaultdict(list)
    for frame in frames:
        parents[frame.info["name"]].append(frame)
    return parents


def volume_series(frames):
    """Volumes, energies and a third of the trace of the stress, in the order of the volume."""
    series = [f for f in frames if f.info["config_type"] in ("equilibrium", "volume")]
    values = [(f.get_volume(), f.get_potential_energy(), f.get_stress()[:3].mean()) for f in series]
    return np.array(sorted(values)).T


def largest_force(frame):
    return np.linalg.norm(frame.get_forces(), axis=1).max()


def test_the_files_are_small():
    assert set(FILES) == {"molecules", "crystals", "isolated_atoms"}
    assert sum(path.stat().st_size for path in FILES.values()) < 2_000_000


def test_the_molecules_are_many_and_varied(molecules):
    assert len(molecules) == 600
    assert {s for f in molecules for s in f.symbols} == {"H", "C", "N", "O", "F", "S", "Cl"}
    assert set(map(len, molecules)) == set(range(3, 26))
    assert not any(f.pbc.any() for f in molecules)


def test_every_element_is_in_many_molecules(molecules):
    parents = Counter(s for f in molecules if f.info["config_type"] == "equilibrium" for s in set(f.symbols))
    assert min(parents.values()) >= 20


def test_the_crystals_are_several_and_varied(crystals):
    assert len(crystals) == 160
    assert len({str(f.symbols.formula.reduce()[0]) for f in crystals}) >= 12
    assert all(f.pbc.all() and 8 <= len(f) <= 16 for f in crystals)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("molecules", {"equilibrium": 1, "thermal": 3}),
        ("crystals", {"equilibrium": 1, "volume": 4, "strained": 2, "rattled": 3}),
    ],
)
def test_every_parent_has_the_same_kinds_of_frames(name, kinds):
    for group in by_parent(frames(name)).values():
        assert Counter(f.info["config_type"] for f in group) == kinds
        assert len({str(f.symbols) for f in group}) == 1


def test_no_element_hangs_on_one_parent(molecules, crystals):
    """A split by parent then seldom leaves an element without training structures."""
    parents = Counter(s for group in by_parent(molecules + crystals).values() for s in set(group[0].symbols))
    assert min(parents.values()) >= 3


def test_no_parent_is_both_a_molecule_and_a_crystal(molecules, crystals):
    assert not set(by_parent(molecules)) & set(by_parent(crystals))


def test_every_element_has_its_isolated_atom(molecules, crystals, isolated):
    assert all(len(f) == 1 and f.info["config_type"] == "IsolatedAtom" for f in isolated)
    symbols = [str(f.symbols) for f in isolated]
    assert sorted(symbols) == sorted({s for f in molecules + crystals for s in f.symbols})


def test_every_structure_is_bound(molecules, crystals, isolated):
    atoms = {str(f.symbols): f.get_potential_energy() for f in isolated}
    for frame in molecules + crystals:
        assert frame.get_potential_energy() < sum(atoms[s] for s in frame.symbols)


def test_labels_are_present_where_they_have_a_meaning_and_missing_elsewhere(molecules, crystals, isolated):
    always = frozenset(("energy", "forces", "dipole", "charges"))
    assert {frozenset(labels_of(f)) for f in molecules} == {always, always | {"polarizability"}}
    assert {frozenset(labels_of(f)) for f in crystals} == {frozenset(("energy", "forces", "stress"))}
    assert {frozenset(labels_of(f)) for f in isolated} == {frozenset(("energy",))}


def test_labels_are_finite(molecules, crystals, isolated):
    for frame in molecules + crystals + isolated:
        assert all(np.isfinite(label).all() for label in labels_of(frame).values())


def test_charges_sum_to_the_total_charge(molecules):
    for frame in molecules:
        assert frame.get_charges().sum() == pytest.approx(frame.info["charge"], abs=1e-6)
        assert frame.info["charge"] == 0


def test_forces_sum_to_zero(molecules, crystals):
    for frame in molecules + crystals:
        np.testing.assert_allclose(frame.get_forces().sum(axis=0), 0, atol=1e-6)


def test_forces_exert_no_torque_on_a_molecule(molecules):
    for frame in molecules:
        np.testing.assert_allclose(np.cross(frame.positions, frame.get_forces()).sum(axis=0), 0, atol=1e-5)


def test_forces_vanish_at_the_minimum_and_are_nowhere_absurd(molecules, crystals):
    for frame in molecules + crystals:
        assert largest_force(frame) < (0.03 if frame.info["config_type"] == "equilibrium" else 15)


def test_the_minimum_has_the_lowest_energy(molecules, crystals):
    for group in (*by_parent(molecules).values(), *by_parent(crystals).values()):
        lowest = min(group, key=Atoms.get_potential_energy)
        assert lowest.info["config_type"] == "equilibrium"


def test_thermal_energies_follow_equipartition(molecules):
    modes = defaultdict(list)
    for group in by_parent(molecules).values():
        minimum = next(f for f in group if f.info["config_type"] == "equilibrium")
        for frame in group:
            if frame is not minimum:
                excess = frame.get_potential_energy() - minimum.get_potential_energy()
                modes[frame.info["temperature"]].append((excess, 3 * len(frame) - 6))
    for temperature, values in modes.items():
        excess, number = np.sum(values, axis=0)
        assert excess / number == pytest.approx(kB * temperature / 2, rel=0.25)


def test_the_polarizability_is_symmetric_and_not_negative(molecules):
    tensors = np.array([labels_of(f)["polarizability"] for f in molecules if "polarizability" in f.info])
    np.testing.assert_array_equal(tensors, tensors.swapaxes(1, 2))
    assert np.linalg.eigvalsh(tensors).min() > -1e-6
    assert np.trace(tensors, axis1=1, axis2=2).min() > 0


@pytest.mark.parametrize("config_type", ["equilibrium", "thermal"])
def test_about_half_of_the_molecules_of_a_kind_have_a_polarizability(molecules, config_type):
    has = ["polarizability" in f.info for f in molecules if f.info["config_type"] == config_type]
    assert 0.45 < np.mean(has) < 0.55


def test_the_dipole_grows_along_the_charges(molecules):
    """They have one sign of charge; the dipole of xTB differs from that of its charges by atomic dipoles."""
    dipoles = np.array([f.get_dipole_moment() for f in molecules])
    point = np.array([f.get_charges() @ f.positions for f in molecules])
    assert np.corrcoef(dipoles.ravel(), point.ravel())[0, 1] > 0.8


def test_tension_is_positive(crystals):
    """The stress rises with the volume, from compression to tension."""
    for group in by_parent(crystals).values():
        _, _, stress = volume_series(group)
        assert (np.diff(stress) > 0).all()
        assert stress[0] < 0 < stress[-1]


def test_the_stress_is_the_slope_of_the_energy_with_volume(crystals):
    """dE/dV = tr(σ)/3."""
    for name, group in by_parent(crystals).items():
        volumes, energies, stress = volume_series(group)
        strain = volumes / volumes[2] - 1
        slopes = np.polyval(np.polyder(np.polyfit(strain, energies - energies[2], 4)), strain) / volumes[2]
        np.testing.assert_allclose(slopes, stress, atol=0.02 * np.abs(stress).max(), err_msg=name)


def test_the_energy_is_a_smooth_and_convex_function_of_the_volume(crystals):
    for group in by_parent(crystals).values():
        volumes, energies, _ = volume_series(group)
        assert (np.diff(np.diff(energies) / np.diff(volumes)) > 0).all()


def test_a_sheared_cell_pulls_back(crystals):
    """The stress has the sign of the strain: their product, summed over the strained cells, is positive."""
    for name, group in by_parent(crystals).items():
        start = next(f for f in group if f.info["config_type"] == "equilibrium").cell.array
        work = []
        for frame in (f for f in group if f.info["config_type"] == "strained"):
            strain = np.linalg.solve(start, frame.cell.array) - np.eye(3)
            work.append((strain * frame.get_stress(voigt=False)).sum())
        assert sum(work) > 0, name


def test_no_structure_comes_twice(molecules, crystals):
    everything = molecules + crystals
    assert len({(str(f.symbols), round(f.get_potential_energy(), 6)) for f in everything}) == len(everything)


def test_no_molecule_comes_twice(molecules):
    minima = [f for f in molecules if f.info["config_type"] == "equilibrium"]
    isomers = defaultdict(list)
    for frame in minima:
        isomers[str(frame.symbols.formula.format("hill"))].append(frame.get_potential_energy())
    assert all(np.diff(sorted(energies)).min(initial=1.0) > 1e-3 for energies in isomers.values())


def test_molecules_are_whole(molecules):
    for frame in molecules:
        neighbors = np.eye(len(frame), dtype=bool)
        for i, j in bonds(frame, stretch=1.4):
            neighbors[i, j] = neighbors[j, i] = True
        assert np.linalg.matrix_power(neighbors.astype(float), len(frame)).all(), frame.info["name"]


def test_a_draw_is_a_function_of_its_key():
    def number(rng: RandomState) -> float:
        return float(rng.uniform())

    assert draw(number, (1, 2), Counter()) == draw(number, (1, 2), Counter())
    assert draw(number, (1, 2), Counter()) != draw(number, (1, 3), Counter())


def test_rejected_draws_are_counted_and_drawn_again():
    def large(rng: RandomState) -> float:
        if (number := float(rng.uniform())) < 0.7:
            raise RejectedError("too small")
        return number

    rejected: Counter[str] = Counter()
    assert all(draw(large, (0, k), rejected) >= 0.7 for k in range(10))
    assert rejected["too small"] > 0


def test_endless_rejection_is_an_error():
    def never(rng: RandomState) -> float:
        raise RejectedError("never good")

    with pytest.raises(RuntimeError, match=r"draw \[3\] was rejected 4 times.*'never good': 4"):
        draw(never, (3,), Counter(), attempts=4)


def test_joined_molecules_lose_two_hydrogens_and_gain_a_bond():
    methane, water = molecule("CH4"), molecule("H2O")
    methanol = join(methane, 1, water, 1, torsion=30)
    assert methanol.symbols.formula.count() == {"C": 1, "H": 4, "O": 1}
    assert len(bonds(methanol)) == len(bonds(methane)) + len(bonds(water)) - 1


def test_a_strain_changes_the_volume_by_its_trace(crystals):
    strain = 1e-6 * np.diag([1.0, 2.0, 3.0])
    ratio = deform(crystals[0], strain).get_volume() / crystals[0].get_volume()
    assert ratio - 1 == pytest.approx(6e-6, rel=1e-4)


def test_a_changed_label_is_found(molecules):
    changed = [molecules[0].copy()]
    changed[0].calc = molecules[0].calc
    changed[0].info["polarizability"] = labels_of(molecules[0])["polarizability"] + 2e-4
    found = deviations(molecules[:1], changed)
    assert {key for key, (value, allowed) in found.items() if value > allowed} == {"polarizability"}


def test_sets_that_differ_are_not_compared(molecules):
    with pytest.raises(ValueError, match="2 frames cannot be compared with 1"):
        deviations(molecules[:2], molecules[:1])
    with pytest.raises(ValueError, match=r"frame 0 is .* in one set and .* in the other"):
        deviations(molecules[:1], molecules[1:2])


def test_the_script_says_what_it_can_do(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "choose at least one of --out, --check and --compare" in capsys.readouterr().err


@needs_tblite
@pytest.mark.parametrize(
    ("name", "rows"), [("molecules", [0, 201, 402]), ("crystals", [47]), ("isolated_atoms", [4])]
)
def test_the_labels_can_be_computed_again(name, rows):
    stored = [frame for row, frame in enumerate(frames(name)) if row in rows]
    for key, (value, allowed) in deviations(stored, [relabelled(f) for f in stored]).items():
        assert value <= allowed == TOLERANCES[key], key


@needs_tblite
def test_the_labels_are_derivatives_of_the_energy():
    for label, (value, allowed) in check().items():
        assert value <= allowed, label

"""Other people's data are read as their descriptions say: counts, labels, units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pesloss.data import Structures, read
from pesloss.losses.properties import PROPERTIES, Property, as_properties

SHARED = Path(__file__).parents[2] / "shared" / "data"
E_F_S = as_properties(["energy", "forces", "stress"])
KCAL = {"energy": "kcal/mol", "length": "Å"}
ATOMS = {"aspirin": 21, "azobenzene": 24, "benzene": 12, "ethanol": 9, "paracetamol": 20, "salicylic": 16}

# the set, how it is read, and structures, energies, forces of atoms and stresses that it has
SETS: dict[str, tuple[str, dict, tuple[int, int, int, int]]] = {
    "acac": ("acac/train_300K.xyz", {}, (500, 500, 7500, 0)),
    "acac atoms": ("acac/isolated_atoms.xyz", {}, (3, 3, 0, 0)),
    "3bpa": ("3bpa/train_300K.xyz", {}, (500, 500, 13500, 0)),
    "3bpa atoms": ("3bpa/iso_atoms.xyz", {}, (4, 4, 0, 0)),
    "ethanol": ("ethanol_pbe/train.xyz", {}, (1000, 1000, 9000, 0)),
    "ethanol without forces": ("ethanol_pbe/test_H_removal.xyz", {}, (60, 60, 0, 0)),
    **{
        f"rmd17 {name} {part}": (
            f"rmd17/rmd17_{name}_{part}_01.npz",
            {"units": KCAL},
            (1000, 1000, 1000 * atoms, 0),
        )
        for name, atoms in ATOMS.items()
        for part in ("train", "test")
    },
    "Si": ("mlearn/Si_train.xyz.gz", {}, (214, 214, 13233, 202)),
    "Si test": ("mlearn/Si_test.xyz.gz", {}, (25, 25, 1525, 23)),
    "Li": ("mlearn/Li_train.xyz.gz", {}, (241, 241, 11576, 230)),
    "Li test": ("mlearn/Li_test.xyz.gz", {}, (29, 29, 1320, 27)),
    "MoNbTaW": ("MoNbTaW/train_subset.xyz.gz", {}, (890, 890, 20328, 890)),
    "BaTiO3": ("BaTiO3_pol/BaTiO3.xyz.gz", {}, (59, 59, 59 * 135, 59)),
    "carbon": ("carbon_gap17/carbon_subset.xyz.gz", {}, (408, 408, 25464, 408)),
    "spice": ("spice_n2/spice_n2.xyz.gz", {}, (55, 55, 1375, 0)),
    "carbon 100": ("metatrain_small/carbon_reduced_100.xyz.gz", {}, (100, 100, 400, 100)),
    "ethanol 100": ("metatrain_small/ethanol_reduced_100.xyz.gz", {"units": KCAL}, (100, 100, 900, 0)),
    "Hessians": ("deepmd_examples/hessian/data/H10C5N2O", {}, (9, 9, 162, 0)),
    "Si32": ("deepmd_examples/dos/data/heat-221", {}, (11, 0, 0, 0)),
}


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"reference data {name} are not here")
    return SHARED / name


def load(name: str, properties=E_F_S, **options) -> Structures:
    return read(shared(name), properties, **options)


def labels(structures: Structures, name: str) -> np.ndarray:
    return np.array([s.labels[name] for s in structures if name in s.labels])


def per_atom(structures: Structures) -> np.ndarray:
    return np.array([s.labels["energy"] / s.num_atoms for s in structures])


def rms(structures: Structures) -> float:
    return float(np.sqrt(np.mean(np.concatenate([s.labels["forces"] for s in structures]) ** 2)))


@pytest.mark.parametrize("name", SETS)
def test_structures_and_labels_are_as_many_as_announced(name):
    path, options, counts = SETS[name]
    structures = load(path, **options)
    (report,) = structures.report.files
    assert (report.num_structures, *(found.labelled for found in report.properties)) == counts


@pytest.mark.parametrize("name", ATOMS)
def test_rmd17_in_ev(name):
    """The README has the range of the root mean square of forces; energies are total ones of PBE."""
    structures = load(f"rmd17/rmd17_{name}_train_01.npz", units=KCAL)
    assert 0.85 < rms(structures) < 1.4
    assert {"aspirin": -17617.6, "ethanol": -4209.4}.get(
        name, structures[0].labels["energy"]
    ) == pytest.approx(
        labels(structures, "energy").mean(), abs=10 if name not in ("aspirin", "ethanol") else 0.5
    )
    assert labels(structures, "energy").std() < 0.5
    assert {s.numbers.tobytes() for s in structures} == {structures[0].numbers.tobytes()}


def test_rmd17_and_its_ethanol_in_ev_agree():
    """Two sets of one molecule at one level, in different units: energies of the same size."""
    kcal, ev = load("rmd17/rmd17_ethanol_train_01.npz", units=KCAL), load("ethanol_pbe/train.xyz")
    assert labels(kcal, "energy").std() == pytest.approx(labels(ev, "energy").std(), rel=0.1)
    assert rms(kcal) == pytest.approx(rms(ev), rel=0.05)


def test_silicon_lacks_the_stress_of_its_surfaces():
    structures = load("mlearn/Si_train.xyz.gz", keys={"config_type": "group"})
    assert {s.config_type for s in structures if "stress" not in s.labels} == {"Surface"}
    missing = sum("stress" not in s.labels for s in structures)
    assert missing / len(structures) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(
    "name", ["mlearn/Si_train.xyz.gz", "MoNbTaW/train_subset.xyz.gz", "BaTiO3_pol/BaTiO3.xyz.gz"]
)
def test_a_stress_is_symmetric(name):
    stress = labels(load(name), "stress")
    np.testing.assert_allclose(stress, stress.swapaxes(1, 2), atol=1e-10)


def test_alloys_have_energies_of_bulk_metals():
    energies = per_atom(load("MoNbTaW/train_subset.xyz.gz"))
    assert energies.min() > -13.1
    assert energies.max() < -9.4


def test_carbon_virial_and_stress_say_the_same():
    path = "carbon_gap17/carbon_subset.xyz.gz"
    own, from_virial = load(path), load(path, keys={"virial": "virial"})
    np.testing.assert_allclose(labels(own, "stress"), labels(from_virial, "stress"), atol=1e-6)
    assert np.abs(np.concatenate([s.labels["forces"] for s in own])).max() == pytest.approx(147, abs=1)


def test_spice_charges_and_dipole_of_one_molecule():
    """Charges are on one of two molecules; with atomic dipoles they make up the dipole of the SCF."""
    keys = {"charges": "mbis_charges", "moments": "mbis_dipoles"}
    properties = as_properties(
        ["charges", "dipole", Property("moments", rows="atom", shape=(3,), unit="e·Å")]
    )
    structures = load("spice_n2/spice_n2.xyz.gz", properties, keys=keys)
    counts = {found.property: found.labelled for found in structures.report.files[0].properties}
    assert counts == {"charges": 1350, "dipole": 55, "moments": 1350}
    for s in (s for s in structures if "charges" in s.labels):
        found = s.labels["charges"] @ s.positions + s.labels["moments"].sum(axis=0)
        np.testing.assert_allclose(found, s.labels["dipole"], atol=0.02)
        assert s.labels["charges"].sum() == pytest.approx(1.0, abs=1e-3)


def test_a_dipole_in_debye_is_the_same_dipole():
    dipole = as_properties(["dipole"])
    path = "spice_n2/spice_n2.xyz.gz"
    in_debye = labels(load(path, dipole, units={"dipole": "Debye"}), "dipole")
    np.testing.assert_allclose(in_debye, 0.2081943 * labels(load(path, dipole), "dipole"), rtol=1e-6)


def test_polarizabilities_in_atomic_units_are_those_of_molecules():
    """Small organic molecules have some ten cubic Ångström, e²·Å²/eV times 14.4 eV·Å/e²."""
    path, prop = "metatrain_small/qm7x_reduced_100.xyz.gz", as_properties(["polarizability"])
    found = labels(load(path, prop, units={"polarizability": "a.u."}), "polarizability")
    volumes = 14.3996 * np.trace(found, axis1=1, axis2=2) / 3
    assert len(found) == 100
    assert 1 < volumes.min() < volumes.max() < 20


def test_qm9_has_energies_in_hartree_and_dipoles_in_debye():
    properties = {"energy": PROPERTIES["energy"], "mu": Property("mu", unit="e·Å")}
    units = {"energy": "Hartree", "mu": "Debye"}
    structures = load(
        "metatrain_small/qm9_reduced_100.xyz.gz", properties, keys={"energy": "U0"}, units=units
    )
    heavy = np.array([(s.numbers > 1).sum() for s in structures])
    assert (labels(structures, "energy") < -1000 * (heavy > 1)).all()
    assert 0 <= labels(structures, "mu").min() < labels(structures, "mu").max() < 2.0


def test_batio3_has_polarizability_and_born_charges():
    own = Property("born_effective_charges", rows="atom", shape=(3, 3), unit="e")
    structures = load("BaTiO3_pol/BaTiO3.xyz.gz", as_properties(["polarizability", own]))
    assert labels(structures, "polarizability").shape == (59, 3, 3)
    sums = np.array([s.labels[own.name].sum(axis=0) for s in structures])
    np.testing.assert_allclose(sums, 0, atol=0.1)


def test_densities_of_states_and_hessians_are_properties_too():
    dos = Property("dos", shape=(250,))
    assert labels(load("deepmd_examples/dos/data/heat-221", {"dos": dos}), "dos").shape == (11, 250)
    hessian = Property("hessian", shape=(54, 54), unit="eV/Å²")
    (found,) = {
        s.labels["hessian"].shape for s in load("deepmd_examples/hessian/data/H10C5N2O", {"hessian": hessian})
    }
    assert found == (54, 54)


def test_references_of_acetylacetone():
    """Energies lose those of their isolated atoms and leave the energy of atomization."""
    energy = as_properties(["energy"])
    structures, alone = load("acac/train_300K.xyz", energy), load("acac/isolated_atoms.xyz", energy)
    each = {int(s.numbers[0]): float(s.labels["energy"]) for s in alone}
    assert each == {1: -13.568422178253735, 6: -1026.8538996116154, 8: -2037.796869412825}
    lost = sum(each[z] for z in structures[0].numbers.tolist())
    atomization = labels(structures, "energy") - lost
    assert -75 < atomization.min() < atomization.max() < -60

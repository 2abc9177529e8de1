"""Other people's data as they are: no alarm that is not explained here, and each of these is true."""

from __future__ import annotations

import pytest

from pesloss.checks import Report, check
from pesloss.data import Bundled, Files
from tests.checks.subjects import loss, of
from tests.test_shared_data import ATOMS, KCAL, shared

E_F, E_F_S = ("energy", "forces"), ("energy", "forces", "stress")
ONE_COMPOSITION = ("note", "references", "leave reference energies open")  # of a single molecule
UNEVEN = ("note", "energy_per_atom", "compares total energies")  # the loss here is of total energies
OPEN_BOX = (
    "note",
    "stress",
    "Neither strain nor forces tell the sign of the stress in config type 'cluster'",
)


def unused(name: str) -> tuple[str, str, str]:
    return ("note", "unused", f"'{name}' is labelled at")


# the set, how it is read, what the loss compares, and every finding: level, check, words of it
SETS: dict[str, tuple[str, dict, tuple[str, ...], list[tuple[str, str, str]]]] = {
    "acac": ("acac/train_300K.xyz", {}, E_F, [ONE_COMPOSITION]),
    "3bpa": ("3bpa/train_300K.xyz", {}, E_F, [ONE_COMPOSITION]),
    "ethanol": (
        "ethanol_pbe/train.xyz",
        {"test": "ethanol_pbe/test_H_removal.xyz"},
        E_F,
        # scans that come without forces
        [ONE_COMPOSITION, ("note", "labels", "no structure of the test has one")],
    ),
    **{
        f"rmd17 {name}": (
            f"rmd17/rmd17_{name}_train_01.npz",
            {"test": f"rmd17/rmd17_{name}_test_01.npz", "units": KCAL},
            E_F,
            [ONE_COMPOSITION],
        )
        for name in ATOMS
    },
    "Si": ("mlearn/Si_train.xyz.gz", {"test": "mlearn/Si_test.xyz.gz"}, E_F_S, []),
    "Li": ("mlearn/Li_train.xyz.gz", {"test": "mlearn/Li_test.xyz.gz"}, E_F_S, [UNEVEN]),
    "MoNbTaW": ("MoNbTaW/train_subset.xyz.gz", {}, E_F_S, [UNEVEN]),
    "BaTiO3": (
        "BaTiO3_pol/BaTiO3.xyz.gz",
        {},
        E_F_S,
        [
            ONE_COMPOSITION,
            unused("polarization"),
            unused("polarizability"),
            unused("born_effective_charges"),
        ],
    ),
    "carbon": (
        "carbon_gap17/carbon_subset.xyz.gz",
        {},
        E_F_S,
        # three dimers in boxes, one of them compressed to 0.8 Å
        [
            UNEVEN,
            ("note", "outliers", "up to 146.9 eV/Å"),
            ("note", "distances", "C 0 and C 1"),
            ("note", "distances", "3 structures with a label of stress but more than 8 Å of vacuum"),
            OPEN_BOX,
        ],
    ),
    "spice": ("spice_n2/spice_n2.xyz.gz", {}, E_F, [ONE_COMPOSITION, UNEVEN, unused("dipole")]),
    "carbon 100": (
        "metatrain_small/carbon_reduced_100.xyz.gz",
        {},
        E_F_S,
        # all its cells are sheared in one way
        [("note", "stress", "tell the order of the shear components")],
    ),
    "ethanol 100": (
        "metatrain_small/ethanol_reduced_100.xyz.gz",
        {"units": KCAL},
        E_F,
        [ONE_COMPOSITION],
    ),
    "Hessians": (
        "deepmd_examples/hessian/data/H10C5N2O",
        {},
        E_F,
        [ONE_COMPOSITION, unused("hessian")],
    ),
}


def report(path: str, options: dict, properties: tuple[str, ...]) -> Report:
    files = {key: shared(value) if key == "test" else value for key, value in options.items()}
    return check(of(Files(shared(path), cache=None, **files), loss(*properties)))


def matched(found: Report, expected: list[tuple[str, str, str]]) -> None:
    said = [(finding.level, finding.check, finding.message) for finding in found.findings]
    for level, name, words in expected:
        hits = [one for one in said if one[:2] == (level, name) and words in one[2]]
        assert len(hits) == 1, (level, name, words, said)
        said.remove(hits[0])
    assert said == []


@pytest.mark.parametrize("name", SETS)
def test_every_finding_is_explained(name):
    path, options, properties, expected = SETS[name]
    matched(report(path, options, properties), expected)


def test_the_bundled_set():
    others = [unused(name) for name in ("dipole", "charges", "polarizability")]
    missing = ("note", "labels", "'stress' is labelled in 'crystals', but not in 'molecules'")
    matched(check(of(Bundled(cache=None))), [UNEVEN, missing, *others])

"""What holds for every check there is: it says sentences, changes nothing, and stands any data."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from pesloss.checks import CHECKS, Finding, Subject, Table, cheap, check
from pesloss.data import Bundled
from tests import files
from tests.checks.subjects import loss, of, subject


def labelled(atoms: Atoms, **labels) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def lone(num: int) -> list[Atoms]:
    return [labelled(Atoms("Cu"), energy=-1.0, forces=np.zeros((1, 3))) for _ in range(num)]


def partly(num: int) -> list[Atoms]:
    """Structures some of which lack one label, all labels, or components."""
    structures = files.structures(num)
    for i in range(0, num, 3):
        structures[i].calc = None
    for i in range(1, num, 3):
        structures[i].calc.results.pop("forces")
        structures[i].calc.results["stress"] = np.full(6, np.nan)
    return structures


def wires(num: int) -> list[Atoms]:
    """Structures that repeat in one direction or two."""
    made = []
    for i in range(num):
        atoms = bulk("Cu", cubic=True)
        atoms.pbc = [True, False, i % 2 == 0]
        atoms.rattle(0.05, seed=i)
        made.append(labelled(atoms, energy=-float(i), forces=np.full((4, 3), 0.1 * i)))
    return made


def constant(num: int) -> list[Atoms]:
    zeros = np.zeros((3, 3))
    return [labelled(molecule("H2O"), energy=0.0, forces=zeros) for _ in range(num)]


SUBJECTS = {
    "bundled": lambda folder: of(Bundled(cache=None)),
    "copper": lambda folder: subject(folder, files.structures(30), val_fraction=0.2, test_fraction=0.2),
    "datasets": lambda folder: subject(
        folder, {"a": files.structures(8), "b": lone(3)}, val=files.structures(4, seed=1), test=lone(1)
    ),
    "one structure": lambda folder: subject(folder, files.structures(1)),
    "lone atoms": lambda folder: subject(folder, lone(5), loss=loss("energy", "forces")),
    "partly labelled": lambda folder: subject(folder, partly(12)),
    "wires and slabs": lambda folder: subject(folder, wires(8), loss=loss("energy", "forces")),
    "all the same": lambda folder: subject(folder, constant(6), loss=loss("energy", "forces")),
    "energies only": lambda folder: subject(folder, files.structures(9), loss=loss("energy")),
    "virials": lambda folder: subject(folder, files.structures(9), loss=loss("forces", "virial")),
    "nothing labelled": lambda folder: subject(
        folder, [molecule("H2O"), bulk("Cu")], loss=loss("forces", "stress")
    ),
}


@pytest.fixture(params=SUBJECTS, scope="module")
def one(request, tmp_path_factory) -> Subject:
    return SUBJECTS[request.param](tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", CHECKS)
def test_it_says_sentences_and_tables(name, one):
    said = list(CHECKS[name].run(one))  # not through check(), which would hide a failure
    assert all(isinstance(part, (Finding, Table)) for part in said)
    for finding in (part for part in said if isinstance(part, Finding)):
        assert finding.check == name
        assert finding.message.endswith((".", "?"))
        assert "\n\n" not in finding.message and "nan" not in finding.message.split()
        assert finding.count is None or finding.count >= len(finding.structures) > 0


@pytest.mark.parametrize("name", CHECKS)
def test_it_changes_nothing_and_says_the_same_twice(name, one):
    before = {key: column.copy() for key, column in {**one.store.structures, **one.store.atoms}.items()}
    first = check(one, [name])
    assert str(first) == str(check(one, [name]))  # NaN is not equal to itself, its text is
    for key, column in before.items():
        np.testing.assert_array_equal(column, {**one.store.structures, **one.store.atoms}[key])


@pytest.mark.parametrize("name", CHECKS)
def test_it_has_a_sentence_about_itself(name):
    about = CHECKS[name].about
    assert about.endswith(".") and about[0].isupper()


def test_every_module_of_checks_is_registered():
    """A function of the package that takes a subject and nothing else is a check."""
    import importlib
    import inspect
    import pkgutil

    import pesloss.checks as package

    names = set()
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        loaded = importlib.import_module(module.name)
        for name, function in vars(loaded).items():
            own = inspect.isfunction(function) and function.__module__ == loaded.__name__
            if (
                own
                and not name.startswith("_")
                and str(inspect.signature(function).return_annotation)
                in (
                    "Iterator[Said]",
                    "Iterator[Finding | Table]",
                    "Iterator[Finding]",
                    "Iterator[Table]",
                )
            ):
                parameters = inspect.signature(function).parameters
                names |= {name} if list(parameters) == ["subject"] else set()
    assert names == set(CHECKS)


def test_a_check_that_fails_does_not_stop_the_others(monkeypatch, tmp_path):
    from pesloss.checks import run

    def broken(subject):
        raise ZeroDivisionError("oh")
        yield

    monkeypatch.setitem(run.CHECKS, "broken", run.Check(broken, cheap=True))
    report = check(subject(tmp_path, files.structures(4)))
    assert "The check 'broken' could not be made (ZeroDivisionError: oh)." in str(report.findings)
    assert len(report.tables)


def test_a_misspelt_name_of_a_check(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'labels'"):
        check(subject(tmp_path, files.structures(2)), ["label"])


def test_cheap_checks_are_some_of_all():
    assert set(cheap()) < set(CHECKS)

"""Stress labels against a trained potential, whose own stress is first tried by finite strain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from jaxtyping import Bool, Int64

from pesloss.checks.findings import Finding
from pesloss.checks.stress.agreement import AS_READ, Agreement, agreement, shear
from pesloss.checks.stress.convention import Convention
from pesloss.checks.stress.finite_strain import finite_strain
from pesloss.checks.stress.groups import MOST_GROUPS, Group, Labels, groups, labels
from pesloss.checks.subject import Subject
from pesloss.models.trained import Trained

STRAINED = 4
"""Structures that are strained, thirteen energies each."""

COMPARED = 40
"""Structures of a group that are compared with their labels."""

EXACT = 0.02
"""Difference over the size of the stress that a step of 0.001 and single precision leave."""

ABSOLUTE = 1e-5
"""The same in eV/Å³."""


def stress_by_model(subject: Subject, trained: Trained) -> Iterator[Finding]:
    """Stress labels whose sign or order of components a trained potential contradicts.

    Args:
        subject: whose labels.
        trained: a potential that knows their elements; the better it is, the more it tells.
    """
    own = labels(subject)
    if own is None:
        return
    rows = own.rows[_known(subject, trained, own.rows)]
    if contradiction := list(_by_strain(subject, trained, rows)):
        yield from contradiction  # such a model is no judge of labels
        return
    for group in groups(subject, rows)[:MOST_GROUPS]:
        yield from _by_labels(subject, trained, own, group)


def _by_strain(subject: Subject, trained: Trained, rows: Int64[np.ndarray, "rows"]) -> Iterator[Finding]:
    """The model's stress is the derivative of its own energy."""
    chosen = _some(rows, STRAINED)
    if not len(chosen):
        return
    atoms = [as_atoms(subject, int(row)) for row in chosen]
    by_strain = np.array([finite_strain(trained, one) for one in atoms])
    stress = np.array([one["stress"] for one in trained.predict(atoms, ["stress"])], dtype=np.float64)
    error = float(np.abs(stress - by_strain).max())
    if error > EXACT * float(np.abs(by_strain).max()) + ABSOLUTE:
        slope = float((stress * by_strain).sum() / (by_strain**2).sum())
        yield Finding(
            "error",
            "stress_by_model",
            "The stress of the model is not the derivative of its energy by strain: it is "
            f"{slope:.3g} times that, and differs by up to {error:.2g} eV/Å³.",
            subject.names(chosen),
            len(chosen),
        )


def _by_labels(subject: Subject, trained: Trained, own: Labels, group: Group) -> Iterator[Finding]:
    chosen = np.sort(_some(group.rows, COMPARED))
    predicted = [trained.predict(as_atoms(subject, int(row)), ["stress"])["stress"] for row in chosen]
    expected = shear(np.array(predicted, dtype=np.float64))
    found = agreement("the stress of the model", expected, shear(own.of(chosen)))
    if found is None or (AS_READ in found.open and len(found.open) > 1):
        message = f"The stress of the model does not tell sign and order of the {own.name} in {group.name}: "
        message += "too few structures are sheared, or the model is too far from them."
        yield Finding("note", "stress_by_model", message, subject.names(chosen), len(group.rows))
    elif AS_READ not in found.open:
        convention = Convention.of(subject, group, own.name)
        yield Finding(
            "warning",
            "stress_by_model",
            f"{_sentence(found)} in {group.name}: {' '.join(convention.options(found.best))} would make "
            f"the {convention.name} agree.",
            subject.names(chosen),
            len(group.rows),
        )


def _sentence(found: Agreement) -> str:
    read, best = found.correlations[AS_READ], found.correlations[found.best]
    return (
        f"The shear stress of the model correlates {read:.2f} with the labels as read and {best:.2f} "
        "with another sign or order of them"
    )


def as_atoms(subject: Subject, row: int) -> Atoms:
    """A structure of the store."""
    store, own = subject.store, subject.atoms(row)
    return Atoms(
        numbers=store.atoms["numbers"][own],
        positions=store.atoms["positions"][own],
        cell=store.structures["cell"][row],
        pbc=store.structures["pbc"][row],
    )


def _known(subject: Subject, trained: Trained, rows: Int64[np.ndarray, "rows"]) -> Bool[np.ndarray, "rows"]:
    """Which structures hold only elements that the potential was trained on."""
    strange = ~np.isin(subject.store.atoms["numbers"], [atomic_numbers[one] for one in trained.elements])
    counts = np.add.reduceat(strange.astype(np.int64), subject.store.atom_ptr[:-1])
    return counts[rows] == 0


def _some(rows: Int64[np.ndarray, "rows"], most: int) -> Int64[np.ndarray, "some"]:
    return np.random.default_rng(0).permutation(rows)[:most]

"""Labels that stand for missing ones: zeros, and one number everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int64

from pesloss.checks.findings import Finding
from pesloss.checks.subject import Subject
from pesloss.checks.unused import MAIN
from pesloss.data import Packed
from pesloss.losses.properties import PROPERTIES, Property

MAY_BE_ZERO = (
    "total_charge",
    "spins",
    *(name for name in PROPERTIES if "magnetic" in name),
)
"""What is exactly 0 in a neutral molecule or a closed shell."""
SAME = 3  # equal labels, of different structures, that are no chance
EXAMINED = 1000  # structures whose symmetry is looked at
ASYMMETRIC = 1e-3  # of the neighbours' own weight, far above the rounding of coordinates in files


def placeholders(subject: Subject) -> Iterator[Finding]:
    """Labels that are exactly 0, or all the same, often stand for missing ones, and are learned."""
    for key, prop in subject.labels.items():
        if prop.name in PROPERTIES and prop.name not in MAY_BE_ZERO:
            yield from _zeros(subject, key, prop)
            yield from _constant(subject, key, prop)


def _zeros(subject: Subject, key: str, prop: Property) -> Iterator[Finding]:
    """Labels of whole structures that are exactly 0, dataset by dataset."""
    labelled, zero = _labelled_and_zero(subject, key, prop)
    for dataset, inside in subject.datasets():
        rows, of = np.flatnonzero(zero & inside), int((labelled & inside).sum())
        if prop.name not in MAIN and len(rows) < of:
            continue  # symmetry makes single dipoles and charges 0
        found = len(rows)
        if prop.name == "forces":
            rows = _not_by_symmetry(subject, rows)
        if not len(rows):
            continue
        how_many = f"all {of}" if len(rows) == of else f"{len(rows)} of {of}"
        how_many = f"at least {how_many}" if prop.name == "forces" and found > EXAMINED else how_many
        yield Finding(
            "warning",
            "placeholders",
            f"'{key}' is exactly 0 in {how_many} labelled structures of several atoms of dataset '{dataset}'"
            f"{' that no symmetry demands it of' if prop.name == 'forces' else ''}. If that stands for a "
            "missing label, leave it out of the file or write NaN; a 0 is learned.",
            subject.names(rows),
            len(rows),
        )


def _labelled_and_zero(
    subject: Subject, key: str, prop: Property
) -> tuple[Bool[np.ndarray, "structures"], Bool[np.ndarray, "structures"]]:
    """Which structures of several atoms have a label, and of which it is all 0; atoms held do not count."""
    column, num = subject.column(key), len(subject.store)
    if column is None or prop.rows == "pair":
        return np.zeros(num, bool), np.zeros(num, bool)
    flat = column.reshape(len(column), -1)
    finite, other = np.isfinite(flat).any(axis=1), ((flat != 0) & np.isfinite(flat)).any(axis=1)
    several = subject.store.structures["num_atoms"] > 1
    if prop.rows == "atom":
        if prop.name == "forces":
            finite &= ~subject.store.atoms["fixed"]
        finite, other = (np.bincount(subject.owner, one, num) > 0 for one in (finite, other))
    return finite & several, finite & ~other & several


def _not_by_symmetry(subject: Subject, rows: Int64[np.ndarray, "rows"]) -> Int64[np.ndarray, "fewer"]:
    """Structures with an atom whose neighbours do not cancel, among some evenly chosen; with them forces have
    a direction to point to."""
    if not len(rows):
        return rows
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), EXAMINED)).astype(int)]
    batch = {name: one.numpy() for name, one in Packed(subject.store, rows).batch(range(len(rows))).items()}
    centre, neighbor = batch["edge_index"]
    shift = np.einsum("ei,eij->ej", batch["edge_shift"], batch["cell"][batch["batch"][centre]])
    vectors = batch["positions"][neighbor] - batch["positions"][centre] + shift
    lengths = np.linalg.norm(vectors, axis=1)
    # a scalar function of the distance, for each element apart, is a vector that any symmetry has to cancel
    _, kind = np.unique(np.stack([centre, batch["numbers"][neighbor]]), axis=1, return_inverse=True)
    kind, near = kind.reshape(-1), np.exp(-lengths)
    sums = np.stack([np.bincount(kind, near / lengths * vectors[:, i]) for i in range(3)], axis=1)
    uneven = np.linalg.norm(sums, axis=1)[kind] > ASYMMETRIC * np.bincount(kind, near)[kind]
    return rows[np.unique(batch["batch"][centre[uneven]])]


def _constant(subject: Subject, key: str, prop: Property) -> Iterator[Finding]:
    """Labels of structures that are all one number, dataset by dataset."""
    column = subject.column(key)
    if column is None or prop.rows != "structure":
        return
    several = subject.store.structures["num_atoms"] > 1
    for dataset, inside in subject.datasets():
        known = column[inside & several]
        known = known[np.isfinite(known).all(axis=tuple(range(1, known.ndim)))]
        if len(known) >= SAME and np.any(known[0] != 0) and (known == known[0]).all():
            number = f"{float(known[0]):.6g} {prop.unit}" if not prop.shape else "one and the same"
            yield Finding(
                "warning",
                "placeholders",
                f"All {len(known)} labels of '{key}' of dataset '{dataset}' are equal ({number}): "
                "there is nothing to learn from them, and they may stand for missing ones.",
            )

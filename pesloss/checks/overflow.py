"""Labels that are larger than a number in single precision can be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pesloss.checks.findings import Finding, counted
from pesloss.checks.subject import Subject

LARGEST = float(np.finfo(np.float32).max)


def overflow(subject: Subject) -> Iterator[Finding]:
    """Labels that single precision cannot hold become infinite in a training, and so does the loss."""
    for key, prop in subject.labels.items():
        column = subject.column(key)
        if column is None:
            continue
        rows = np.flatnonzero((np.abs(column.reshape(len(column), -1)) > LARGEST).any(axis=1))
        if prop.rows != "structure":
            ends = (subject.store.atom_ptr if prop.rows == "atom" else subject.store.pair_ptr)[1:]
            rows = np.unique(np.searchsorted(ends, rows, side="right"))
        if len(rows):
            yield Finding(
                "error",
                "overflow",
                f"'{key}' of {counted(len(rows), 'structure')} is beyond {LARGEST:.2g} {prop.unit}, the "
                "largest number of single precision. No calculation gives that: leave it out of the file, or "
                "write NaN; the other checks wait until then.",
                subject.names(rows),
                len(rows),
            )

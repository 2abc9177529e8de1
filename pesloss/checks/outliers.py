"""Labels that stand far out from all others, by file and row; energies have a check of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from pesloss.checks.findings import Finding, Level, Said, Table, counted
from pesloss.checks.subject import Subject
from pesloss.losses.properties import Property

BEYOND = 10.0
"""Times the largest value but for 5 % of the structures. Forces have heavy tails:
of carbon with a root mean square of 3 eV/Å, a short dimer has 147 eV/Å, 6 times as much."""
FAR_BEYOND = 1000.0  # times the median; where more than 5 % are out
RARE = 0.05  # share of the structures that may be out without moving what is usual
HARMLESS = 10.0  # eV/Å; where most structures are relaxed, a usual force is far from the median
LARGE = 50.0  # eV/Å; a bond compressed to half its length, or a collision
FEWEST = 10  # structures that say what is usual
WORST = 5  # rows of the table
ENERGIES = ("energy", "atomic_energies")
Row: TypeAlias = tuple[str, str, float, "float | None", str]


class _Sizes(NamedTuple):
    """How large a label is in each structure.

    Args:
        largest: norm of the largest row; NaN where there is no label.
        squares: sum of the squares of all its components.
        usual: median of ``largest`` in the structure's dataset.
        limit: beyond which it is out.
    """

    largest: Float64[np.ndarray, "structures"]
    squares: Float64[np.ndarray, "structures"]
    usual: Float64[np.ndarray, "structures"]
    limit: Float64[np.ndarray, "structures"]


def outliers(subject: Subject) -> Iterator[Said]:
    """A label far larger than all others is often a calculation gone wrong, and rules a squared loss.

    The size of a label is the norm of its largest row; what is usual is found for each dataset.
    """
    rows: list[Row] = []
    for key, prop in subject.labels.items():
        column = subject.column(key)
        if column is None or prop.name in ENERGIES or prop.rows == "pair":
            continue
        sizes = _sizes(subject, prop, column)
        yield from _far_out(subject, key, prop, sizes)
        rows += _worst(subject, key, prop, sizes)
    if rows:
        columns = ("label", "structure", "largest", "times the median", "unit")
        yield Table("Largest labels (norm of the largest row of a structure)", columns, tuple(rows))


def _sizes(subject: Subject, prop: Property, column: Shaped[np.ndarray, "rows *entry"]) -> _Sizes:
    flat = column.reshape(len(column), -1)
    known = np.isfinite(flat)
    squares = np.square(np.where(known, flat, 0.0)).sum(axis=1)
    norms = np.where(known.any(axis=1), np.sqrt(squares), -1)
    if prop.rows == "atom":
        starts = subject.store.atom_ptr[:-1]
        squares, norms = np.add.reduceat(squares, starts), np.maximum.reduceat(norms, starts)
    largest = np.where(norms < 0, np.nan, norms)
    usual, limit = np.full(len(largest), np.nan), np.full(len(largest), np.inf)
    for _, inside in subject.datasets():
        values = largest[inside & (largest > 0)]
        if len(values) >= FEWEST:
            usual[inside] = np.median(values)
            most = BEYOND * np.quantile(values, 1 - RARE, method="lower")
            limit[inside] = min(most, FAR_BEYOND * np.median(values))
    if prop.name == "forces":
        limit = np.maximum(limit, HARMLESS)
    return _Sizes(largest, squares, usual, limit)


def _far_out(subject: Subject, key: str, prop: Property, sizes: _Sizes) -> Iterator[Finding]:
    out = np.flatnonzero(sizes.largest > sizes.limit)
    if len(out):
        worst = out[np.argsort(-sizes.largest[out])]
        top, labelled = float(sizes.largest[worst[0]]), int(np.isfinite(sizes.largest).sum())
        times = f"{top:.4g} {prop.unit}, {top / sizes.usual[worst[0]]:.2g} times the median"
        yield _finding(
            subject,
            "warning",
            worst,
            f"'{key}' is far out in {counted(len(out), 'structure')} of {labelled}, up to {times}, and with "
            f"{_share(sizes, out)}. Look at the calculation, or leave them out.",
        )
    large = np.flatnonzero(sizes.largest > LARGE) if prop.name == "forces" else np.zeros(0, np.int64)
    labelled = int(np.isfinite(sizes.largest).sum())
    if len(out) < len(large) <= labelled / 2:  # if most are, they are in another unit
        worst = large[np.argsort(-sizes.largest[large])]
        yield _finding(
            subject,
            "note",
            worst,
            f"'{key}' exceeds {LARGE:g} {prop.unit} in {counted(len(large), 'structure')}, up to "
            f"{sizes.largest[worst[0]]:.4g} {prop.unit}, with {_share(sizes, worst)}; "
            "Huber penalties give these less (loss=huber, loss=tace_conditional_huber).",
        )


def _share(sizes: _Sizes, rows: Int64[np.ndarray, "rows"]) -> str:
    return f"{sizes.squares[rows].sum() / sizes.squares.sum():.0%} of the sum of squares of all labels"


def _finding(subject: Subject, level: Level, rows: Int64[np.ndarray, "rows"], message: str) -> Finding:
    return Finding(level, "outliers", message, subject.names(rows), len(rows))


def _worst(subject: Subject, key: str, prop: Property, sizes: _Sizes) -> Iterator[Row]:
    order = np.argsort(-np.nan_to_num(sizes.largest, nan=-1.0), kind="stable")[:WORST]
    for row in order[np.isfinite(sizes.largest[order])]:
        largest, usual = float(sizes.largest[row]), float(sizes.usual[row])
        ratio = largest / usual if np.isfinite(usual) else None
        yield key, subject.name(int(row)), largest, ratio, prop.unit

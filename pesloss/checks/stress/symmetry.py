"""Whether stress labels are symmetric and complete."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int64

from pesloss.checks.findings import Finding, Level
from pesloss.checks.stress.agreement import shear
from pesloss.checks.stress.families import families
from pesloss.checks.stress.groups import MOST_GROUPS, Group, Labels, groups, labels
from pesloss.checks.stress.pair_potential import is_disordered
from pesloss.checks.stress.strain import MOVED
from pesloss.checks.subject import Subject

ROUNDED = 1e-3
"""Asymmetry over the size of the tensor that digits in print and cutoffs of a code explain."""

ASYMMETRIC = 0.05
"""The same from which it is something else than a stress."""

FEWEST = 5
"""Structures without symmetry in which a component that is always zero was not computed."""

LOOKED_AT = 50
"""Structures of a group in which symmetry is looked for."""

COMPONENTS = ("xx", "yy", "zz", "yz", "xz", "xy")


def stress_symmetry(subject: Subject) -> Iterator[Finding]:
    """Stress tensors that are not symmetric, or whose components were not all computed."""
    own = labels(subject)
    if own is None or not len(own.rows):
        return
    yield from _asymmetric(subject, own)
    missing = [
        (group, _never_computed(subject, own, group)) for group in groups(subject, own.rows)[:MOST_GROUPS]
    ]
    for names in dict.fromkeys(names for _, names in missing if names):
        alike = [group for group, found in missing if found == names]
        yield _partial(subject, own, alike, names)


def _asymmetric(subject: Subject, own: Labels) -> Iterator[Finding]:
    """One finding, on those whose asymmetry is not explained by digits."""
    size = np.linalg.norm(own.stress, axis=(1, 2))
    # a stress that nearly vanishes keeps the noise of the others
    size = np.maximum(size, np.median(size))
    skew = np.linalg.norm(own.stress - own.stress.swapaxes(1, 2), axis=(1, 2))
    ratio = np.divide(skew, size, out=np.zeros_like(skew), where=size > 0)
    worst = np.argsort(-ratio, kind="stable")[: int((ratio > ROUNDED).sum())]
    if not len(worst):
        return
    largest = float(ratio[worst[0]])
    level: Level = "warning" if largest > ASYMMETRIC else "note"
    yield Finding(
        level,
        "stress_symmetry",
        f"The {own.name} of {len(worst)} structures is not symmetric: its two halves differ by up to "
        f"{largest:.2g} of its size. A stress is symmetric; the loss compares all nine numbers, and no model "
        "whose energy knows no direction can reach them.",
        subject.names(own.rows[worst]),
        len(worst),
    )


def _never_computed(subject: Subject, own: Labels, group: Group) -> tuple[str, ...]:
    """Components that are zero throughout although no symmetry makes them so."""
    stress = own.of(group.rows)
    six = np.concatenate([np.diagonal(stress, axis1=1, axis2=2), shear(stress)], axis=1)
    absent = np.abs(six).max(axis=0) == 0
    if not 0 < absent.sum() < 6 or not _lacks_symmetry(subject, group.rows):
        return ()
    return tuple(name for name, zero in zip(COMPONENTS, absent.tolist(), strict=True) if zero)


def _lacks_symmetry(subject: Subject, rows: Int64[np.ndarray, "rows"]) -> bool:
    """Whether some structures are disordered or sheared."""
    sheared = sum(
        int((np.abs(shear(family.strain)).max(axis=1) > MOVED).sum()) for family in families(subject, rows)
    )
    chosen = np.random.default_rng(0).permutation(rows)[:LOOKED_AT]
    return sheared >= FEWEST or sum(is_disordered(subject, int(row)) for row in chosen) >= FEWEST


def _partial(subject: Subject, own: Labels, alike: list[Group], names: tuple[str, ...]) -> Finding:
    rows = np.concatenate([group.rows for group in alike])
    where = ", ".join(group.name for group in alike)
    stress = own.of(np.sort(rows))
    diagonal = np.diagonal(stress, axis1=1, axis2=2)
    only = "only the pressure" if _are_equal(diagonal) else "not all of it"
    return Finding(
        "note",
        "stress_symmetry",
        f"{', '.join(names)} of the {own.name} are zero in all structures of {where}, although these are "
        f"strained or disordered: {only} seems to have been computed. NaN in their place counts as missing.",
        subject.names(rows),
        len(rows),
    )


def _are_equal(diagonal: Float64[np.ndarray, "rows 3"]) -> bool:
    return bool(np.allclose(diagonal, diagonal.mean(axis=1, keepdims=True)))

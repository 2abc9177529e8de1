"""Every check there is, and how they are run: one after another, none stopped by another's failure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple, TypeAlias

from pesloss.checks.distances import distances
from pesloss.checks.duplicates import duplicates
from pesloss.checks.energies import energy_outliers, energy_per_atom, references
from pesloss.checks.findings import Finding, Report, Said
from pesloss.checks.forces import net_force, net_torque
from pesloss.checks.labels import labels
from pesloss.checks.outliers import outliers
from pesloss.checks.overflow import overflow
from pesloss.checks.placeholders import placeholders
from pesloss.checks.stress import stress, stress_symmetry
from pesloss.checks.subject import Subject
from pesloss.checks.units import units
from pesloss.checks.unused import unused
from pesloss.names import unknown

Function: TypeAlias = Callable[[Subject], Iterator[Said]]


class Check(NamedTuple):
    """Something that is looked for in a loss and its data.

    Args:
        run: says what it finds.
        cheap: whether it takes no more than a pass over the labels, so that every training begins with it.
        first: whether the others make no sense before its errors are mended.
    """

    run: Function
    cheap: bool
    first: bool = False

    @property
    def about(self) -> str:
        """What it looks for, in a sentence."""
        return (self.run.__doc__ or "").partition("\n")[0]


FIRST: tuple[Function, ...] = (overflow,)
CHEAP: tuple[Function, ...] = (
    *FIRST,
    labels,
    unused,
    placeholders,
    units,
    references,
    energy_per_atom,
    energy_outliers,
    outliers,
    net_force,
    net_torque,
    stress_symmetry,
)
COSTLY: tuple[Function, ...] = (distances, duplicates, stress)

CHECKS = {
    function.__name__: Check(function, cheap, function in FIRST)
    for functions, cheap in ((CHEAP, True), (COSTLY, False))
    for function in functions
}
"""All of them, by name, in the order of their report."""


def check(
    subject: Subject,
    names: Collection[str] | None = None,
    told: Callable[[str], object] = lambda name: None,
) -> Report:
    """Run some checks.

    Args:
        subject: a loss and its data.
        names: of the checks; all of them by default.
        told: is called with the name of each check before it runs.

    Raises:
        ValueError: if there is no such check.
    """
    names = list(CHECKS if names is None else names)
    for name in names:
        if name not in CHECKS:
            raise ValueError(unknown("check", name, CHECKS))
    said: list[Said] = []
    for name in names:
        told(name)
        said += (found := _said(name, subject))
        if CHECKS[name].first and Report.of(found).errors:
            break
    return Report.of(said)


def cheap() -> list[str]:
    """Names of the checks that every training begins with."""
    return [name for name, check in CHECKS.items() if check.cheap]


def _said(name: str, subject: Subject) -> list[Said]:
    try:
        return list(CHECKS[name].run(subject))
    except Exception as error:  # a month of training must not depend on a check
        message = f"The check '{name}' could not be made ({type(error).__name__}: {error})."
        return [Finding("warning", name, message)]

"""Sign, order and unit of stress labels, from strain, work and forces, group by group."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pesloss.checks.findings import Finding, Level, Table, Value, named
from pesloss.checks.stress.agreement import AS_READ, Agreement, Hypothesis
from pesloss.checks.stress.convention import Convention
from pesloss.checks.stress.groups import MOST_GROUPS, Group, Labels, groups, labels
from pesloss.checks.stress.verdict import Verdict
from pesloss.checks.subject import Subject
from pesloss.data.reading.partners import UNITS
from pesloss.units import as_unit

OTHER_UNIT = 10.0
"""Factor from which the unit is wrong by a pair potential, which is right within a half."""

SAME_UNIT = 1.7
"""How near, as a factor, a unit has to come to be named."""

GPA = 160.21766
"""1 eV/Å³ in GPa."""


def stress(subject: Subject) -> Iterator[Finding | Table]:
    """Stress labels with the wrong sign, unit or order of components, which train without any complaint."""
    own = labels(subject)
    if own is None or not len(own.rows):
        return
    found = groups(subject, own.rows)
    alone = [Diagnosis.of(subject, own, group) for group in found[:MOST_GROUPS]]
    together = _together(alone)
    yield _table([*alone, *together], len(found))
    diagnoses = [*(one for one in alone if not any(one.is_part_of(pool) for pool in together)), *together]
    yield from _wrong(diagnoses)
    yield from _units(diagnoses)
    yield from _contradictions(diagnoses)
    yield from _untold(diagnoses)


@dataclass(frozen=True)
class Diagnosis:
    """A verdict and what would mend the labels.

    Args:
        subject: whose labels.
        labels: all of them.
        verdict: on one group.
        convention: by which its file was read.
    """

    subject: Subject
    labels: Labels
    verdict: Verdict
    convention: Convention

    @classmethod
    def of(cls, subject: Subject, own: Labels, group: Group) -> Diagnosis:
        """Of one group."""
        verdict = Verdict.of(subject, group, own)
        return cls(subject, own, verdict, Convention.of(subject, group, own.name))

    def is_part_of(self, pool: Diagnosis) -> bool:
        """Whether another diagnosis is about these structures too."""
        return bool(np.isin(self.verdict.group.rows, pool.verdict.group.rows).all())

    @property
    def cure(self) -> tuple[str, ...]:
        """Options that read the labels right."""
        return self.convention.options(self.verdict.best)

    @property
    def where(self) -> str:
        """The group, and how many structures it has."""
        count = len(self.verdict.group.rows)
        return f"{self.verdict.group.name} ({count} structure{'s' if count > 1 else ''})"

    @property
    def unit(self) -> str | None:
        """A sentence on the unit, if the forces show that it is wrong; work is another check's."""
        factor = self.verdict.factor
        if factor is None or not factor > 0 or 1 / OTHER_UNIT < factor < OTHER_UNIT:
            return None
        name = self.convention.name
        if self._is_virial(factor):
            return "as large as a virial in eV, which has the other sign: +data.keys.virial=<its key>"
        if self.verdict.work.sure:
            return None
        unit = next((unit for unit in UNITS[name] if _near(factor, 1 / as_unit(unit).factor)), "...")
        return f"{factor:.3g} times what forces let expect: +data.units.{name}={unit}"

    def _is_virial(self, factor: float) -> bool:
        volumes = np.abs(np.linalg.det(self.subject.store.structures["cell"][self.verdict.group.rows]))
        flipped = self.verdict.is_wrong and self.verdict.best.sign == -1
        return self.convention.name == "stress" and flipped and _near(factor, float(np.median(volumes)))

    def row(self) -> tuple[Value, ...]:
        """Of the table."""
        verdict = self.verdict
        volume, work = verdict.volume, verdict.work
        return (
            verdict.group.name,
            len(verdict.group.rows),
            None if volume is None else round(volume.correlation, 2),
            None if volume is None else round(volume.bulk_modulus * GPA, 1),
            round(work.ratio, 2) if work.sure else None,
            *_columns(verdict.strain),
            *_columns(verdict.forces),
            verdict.words + (f": {' '.join(self.cure)}" if verdict.is_wrong else ""),
        )


def _together(alone: Sequence[Diagnosis]) -> list[Diagnosis]:
    """Groups of one file that tell nothing alone, where they do so together."""
    untold = [one for one in alone if one.verdict.is_untold]
    pools = []
    for file in dict.fromkeys(one.verdict.group.file for one in untold):
        parts = [one.verdict.group for one in untold if one.verdict.group.file == file]
        if file is not None and len(parts) > 1:
            rows = np.sort(np.concatenate([part.rows for part in parts]))
            pool = Group(f"{', '.join(part.name for part in parts)} together", rows, file)
            pools.append(Diagnosis.of(untold[0].subject, untold[0].labels, pool))
    return [pool for pool in pools if not pool.verdict.is_untold]


def _near(factor: float, other: float) -> bool:
    return abs(math.log(factor / other)) < math.log(SAME_UNIT)


def _columns(agreement: Agreement | None) -> tuple[Value, Value]:
    if agreement is None:
        return None, None
    others = [value for one, value in agreement.correlations.items() if one != AS_READ]
    return round(agreement.correlations[AS_READ], 2), round(max(others), 2)


def _table(diagnoses: Sequence[Diagnosis], total: int) -> Table:
    most = f", the largest {len(diagnoses)} of {total} groups" if total > len(diagnoses) else ""
    columns = (
        "group",
        "structures",
        "volume (correlation)",
        "bulk modulus [GPa]",
        "energy / work",
        "shear strain (as read)",
        "shear strain (otherwise)",
        "forces (as read)",
        "forces (otherwise)",
        "verdict",
    )
    return Table(f"sign and order of the stress{most}", columns, tuple(one.row() for one in diagnoses))


def _wrong(diagnoses: Sequence[Diagnosis]) -> Iterator[Finding]:
    """One finding for all groups that the same options would mend."""
    wrong = [one for one in diagnoses if one.verdict.is_wrong]
    for cure in dict.fromkeys(one.cure for one in wrong):
        alike = [one for one in wrong if one.cure == cure]
        level: Level = "error" if any(one.verdict.is_certain for one in alike) else "warning"
        evidence = ", ".join(alike[0].verdict.evidence())
        yield _finding(
            level, alike, f"{_fault(alike[0])} {_in(alike)}: {evidence}. {_mend(alike, diagnoses)}"
        )


def _fault(one: Diagnosis) -> str:
    best, name = one.verdict.best, one.convention.name
    if best.order == AS_READ.order:
        return f"The {name} has the other sign"
    order = f"The shear components of the {name} stand as {one.convention.true_order(best)}"
    return order + (", with the other sign," if best.sign == -1 else "")


def _mend(alike: Sequence[Diagnosis], diagnoses: Sequence[Diagnosis]) -> str:
    """What to do, and why it is not that simple if other groups are right as they are."""
    cure, best = " ".join(alike[0].cure), alike[0].verdict.best
    six = (
        "" if best.order == AS_READ.order else " if the file has six numbers; nine have to be put right there"
    )
    others = [one for one in diagnoses if one not in alike and _is_other(one.verdict, best)]
    if not others:
        return f"{cure} puts it right{six}."
    return (
        f"{cure} would put it right{six}; but it would be wrong {_in(others)}, so that no one setting fits: "
        "these need a file of their own."
    )


def _is_other(verdict: Verdict, best: Hypothesis) -> bool:
    """Whether what mends another group would spoil this one."""
    return bool(verdict.open) and best not in verdict.open


def _units(diagnoses: Sequence[Diagnosis]) -> Iterator[Finding]:
    for unit in dict.fromkeys(one.unit for one in diagnoses if one.unit is not None):
        alike = [one for one in diagnoses if one.unit == unit]
        yield _finding("error", alike, f"The {alike[0].convention.name} {_in(alike)} is {unit}.")


def _contradictions(diagnoses: Sequence[Diagnosis]) -> Iterator[Finding]:
    flipped = [one for one in diagnoses if one.verdict.forces_are_flipped]
    if flipped:
        text = "Forces and stress have opposite signs {}: {}. Strain says that the stress is right: "
        yield _finding(
            "error",
            flipped,
            text.format(_in(flipped), ", ".join(flipped[0].verdict.evidence())) + "+data.signs.forces=-1.",
        )
    for one in diagnoses:
        if one.verdict.contradicts and not one.verdict.forces_are_flipped:
            yield _finding(
                "warning",
                [one],
                f"Strained and disordered structures have the {one.convention.name} in different orders or "
                f"signs {_in([one])}: {', '.join(one.verdict.evidence())}. Perhaps it has several sources: "
                "+data.keys.config_type=<a key that tells them apart> has each judged alone.",
            )


def _untold(diagnoses: Sequence[Diagnosis]) -> Iterator[Finding]:
    """What the data do not tell, in one note."""
    untold = [one for one in diagnoses if one.verdict.is_untold]
    order = [one for one in untold if one.verdict.hides_order]
    sign = [one for one in untold if not one.verdict.tells_sign]
    name = diagnoses[0].convention.name
    parts = [f"the order of the shear components of the {name} {_in(order)}"] if order else []
    parts += [f"{'its sign' if order else f'the sign of the {name}'} {_in(sign)}"] if sign else []
    if parts:
        yield _finding("note", untold, f"Neither strain nor forces tell {', nor '.join(parts)}.")


def _finding(level: Level, alike: Sequence[Diagnosis], message: str) -> Finding:
    rows = np.concatenate([one.verdict.group.rows for one in alike])
    return Finding(level, "stress", message, alike[0].subject.names(rows), len(rows))


def _in(alike: Sequence[Diagnosis]) -> str:
    """Names of groups with a preposition."""
    return f"in {named([one.where for one in alike])}"

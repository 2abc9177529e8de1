"""What strain, work and forces say together of the stresses of one group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pesloss.checks.stress.agreement import AS_READ, HYPOTHESES, Agreement, Hypothesis, preference, shear
from pesloss.checks.stress.families import families
from pesloss.checks.stress.groups import Group, Labels
from pesloss.checks.stress.pair_potential import pair_virial
from pesloss.checks.stress.strain import VolumeResponse, response_to_shear, response_to_volume
from pesloss.checks.subject import Subject
from pesloss.checks.work import Slope, stress_slope, works

OVERWHELMING = 0.9
"""Correlation from which the labels as read are certainly wrong, if it is preferred by ``FIVE_SIGMA``.
As read it need not vanish: where two slots are exchanged, the third is right and leaves a third of it."""

FIVE_SIGMA = 5.0

HARDLY = 0.02
"""Shear over the whole stress below which its order hardly matters."""


@dataclass(frozen=True)
class Verdict:
    """The evidence on one group of structures.

    Args:
        group: which structures.
        volume: response to the volume.
        work: energy gained over the work of the stress, between similar structures.
        strain: response to shear strain.
        forces: virial of a pair potential fitted to the forces.
        has_shear: whether the labels have shear components to speak of.
    """

    group: Group
    volume: VolumeResponse | None
    work: Slope
    strain: Agreement | None
    forces: Agreement | None
    has_shear: bool

    @classmethod
    def of(cls, subject: Subject, group: Group, labels: Labels) -> Verdict:
        """Collects it."""
        rows = labels.distinct(group.rows)
        alike, stress = list(families(subject, rows)), labels.of(rows)
        has_shear = bool(np.linalg.norm(shear(stress)) > HARDLY * np.linalg.norm(stress))
        return cls(
            group,
            volume=response_to_volume(alike, labels),
            work=stress_slope(works(subject, rows)),
            strain=response_to_shear(alike, labels) if has_shear else None,
            forces=pair_virial(subject, rows, labels, alike) if has_shear else None,
            has_shear=has_shear,
        )

    @property
    def sign_by_strain(self) -> int:
        """Sign by work and volume; 0 where they differ, as they do if an overstretched crystal yields."""
        signs = {self.sign_by_work, 0 if self.volume is None else self.volume.sign} - {0}
        return signs.pop() if len(signs) == 1 else 0

    @property
    def sign_by_work(self) -> int:
        """Sign by work alone, 0 if it is not sure."""
        return int(np.sign(self.work.ratio)) if self.work.sure else 0

    @property
    def by_strain(self) -> frozenset[Hypothesis]:
        """What strain and work leave open."""
        return _open(self.strain) & _signed(self.sign_by_strain)

    @property
    def by_forces(self) -> frozenset[Hypothesis]:
        """What the forces leave open."""
        return _open(self.forces)

    @cached_property
    def open(self) -> frozenset[Hypothesis]:
        """What all of it leaves open; nothing if strain and forces contradict each other.

        A pair potential is a model and work is a law: where work is sure of the sign, it overrules it.
        """
        orders = {one.order for one in self.by_forces}
        by_forces = (
            [one for one in HYPOTHESES if one.order in orders] if self.sign_by_work else self.by_forces
        )
        return self.by_strain & frozenset(by_forces)

    @property
    def forces_are_flipped(self) -> bool:
        """Whether forces and stress differ in sign and strain sides with the stress."""
        turned = {Hypothesis(order, -sign) for order, sign in self.by_forces}
        return not self.open and AS_READ in self.by_strain and AS_READ in turned

    @property
    def contradicts(self) -> bool:
        """Whether strain and forces cannot both be right."""
        return not self.open

    @property
    def is_wrong(self) -> bool:
        """Whether the labels cannot be as they were read."""
        return bool(self.open) and AS_READ not in self.open

    @property
    def tells_sign(self) -> bool:
        """Whether one sign is left."""
        return len({one.sign for one in self.open}) == 1

    @property
    def tells_order(self) -> bool:
        """Whether one order is left."""
        return len({one.order for one in self.open}) == 1

    @property
    def hides_order(self) -> bool:
        """Whether there is an order to tell and nothing tells it."""
        return self.has_shear and not self.tells_order

    @property
    def is_untold(self) -> bool:
        """Whether the labels may be right and may be wrong."""
        return AS_READ in self.open and (self.hides_order or not self.tells_sign)

    @property
    def best(self) -> Hypothesis:
        """The reading that fits best of those left; of equals, what changes least."""
        agreements = [one for one in (self.strain, self.forces) if one is not None and one.tells]
        return max(
            sorted(self.open),
            key=lambda one: (
                round(sum(agreement.correlations[one] for agreement in agreements), 2),
                one == AS_READ,
                one.order == AS_READ.order,
                one.sign,
            ),
        )

    @property
    def is_certain(self) -> bool:
        """Whether the evidence against the labels as read is overwhelming."""
        if self.sign_by_strain == self.sign_by_work == -1:
            return True
        agreements = [one for one in (self.strain, self.forces) if one is not None and one.tells]
        against = [one for one in agreements if AS_READ not in one.open]
        return len(against) == 2 or any(
            one.correlations[self.best] > OVERWHELMING
            and preference(one.correlations[self.best], one.correlations[AS_READ], one.weight) > FIVE_SIGMA
            for one in against
        )

    @property
    def factor(self) -> float | None:
        """How much larger the labels are than they should be, if that is known."""
        if self.work.sure:
            return abs(1 / self.work.ratio)
        return self.forces.slope if self.forces is not None and self.forces.tells else None

    def evidence(self) -> Iterator[str]:
        """Each account in words, with its numbers."""
        if self.work.sure:
            yield f"the energy rises by {self.work.ratio:.2g} times the work of the stress"
        if self.volume is not None and self.volume.sign:
            yield f"the mean stress correlates {self.volume.correlation:.2f} with the volume"
        for agreement in (self.strain, self.forces):
            if agreement is not None and agreement.tells:
                yield _compared(agreement, self.best if self.open else agreement.best)

    @property
    def words(self) -> str:
        """The verdict, for a table."""
        if self.forces_are_flipped:
            return "forces have the other sign"
        if self.contradicts:
            return "strain and forces contradict each other"
        if self.is_wrong:
            return "wrong"
        told = [name for name, told in (("sign", self.tells_sign), ("order", self.tells_order)) if told]
        return " and ".join(told) + " right" if told else "cannot tell"


def _open(agreement: Agreement | None) -> frozenset[Hypothesis]:
    return frozenset(HYPOTHESES) if agreement is None else agreement.open


def _signed(sign: int) -> frozenset[Hypothesis]:
    return frozenset(one for one in HYPOTHESES if sign in (0, one.sign))


def _compared(agreement: Agreement, best: Hypothesis) -> str:
    as_read = agreement.correlations[AS_READ]
    if best == AS_READ:
        return f"{agreement.method} correlates {as_read:.2f} with the shear stress"
    found = agreement.correlations[best]
    return f"{agreement.method} correlates {as_read:.2f} with the shear stress as read and {found:.2f} so"

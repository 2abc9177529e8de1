"""How a file's stress was read, and which keys of the config would read it otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from pesloss.checks.stress.agreement import AS_READ, SLOTS, Hypothesis
from pesloss.checks.stress.groups import Group
from pesloss.checks.subject import Subject
from pesloss.data.reading.labels import SIX_NUMBERS, conversion
from pesloss.data.reading.voigt import voigt_option
from pesloss.losses.voigt import VOIGT_ASE


@dataclass(frozen=True)
class Convention:
    """How the stress was read.

    Args:
        name: what stands in the file, ``stress`` or ``virial``.
        order: of six numbers.
        sign: −1 if the config turned it.
    """

    name: str
    order: str
    sign: int

    @classmethod
    def of(cls, subject: Subject, group: Group, label: str) -> Convention:
        """What the account of the reading says.

        Args:
            label: property that the loss asks for, ``stress`` or ``virial``.
        """
        files = subject.data.report.files
        path = subject.store.about["files"][group.file] if group.file is not None else files[0].file
        report = next(file for file in files if file.file == path)
        sources = next(found.sources for found in report.properties if found.property == label)
        derived = any(conversion(label) in place for place in sources)
        name = {"stress": "virial", "virial": "stress"}[label] if derived else label
        done = report.changes.get(name, "").split(", ")
        orders = [words.removeprefix(SIX_NUMBERS) for words in done if words.startswith(SIX_NUMBERS)]
        return cls(name, orders[0] if orders else VOIGT_ASE, -1 if "sign −1" in done else 1)

    def true_order(self, found: Hypothesis) -> str:
        """Order of six numbers that puts the shear components where a hypothesis finds them."""
        true = {SLOTS[slot]: component for component, slot in zip(SLOTS, found.order, strict=True)}
        return " ".join(true.get(component, component) for component in self.order.split())

    def options(self, found: Hypothesis) -> tuple[str, ...]:
        """Options that read the labels right if a hypothesis holds."""
        sign = (f"+data.signs.{self.name}={-self.sign}",) if found.sign == -1 else ()
        order = (voigt_option(self.true_order(found)),) if found.order != AS_READ.order else ()
        return (*sign, *order)

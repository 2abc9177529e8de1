"""What is read from structures that carry the same entries: worked out once, done for each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float64, Int64

from pesloss.data.reading.conversions import Conversions
from pesloss.data.reading.files import File
from pesloss.data.reading.formats.base import DATA, Frame, Place
from pesloss.data.reading.geometry import volume
from pesloss.data.reading.labels import (
    SIX_NUMBERS,
    as_label,
    candidates,
    conversion,
    converted,
    is_voigt,
    key_places,
    spellings,
)
from pesloss.data.reading.partners import Pair, Side
from pesloss.data.reading.report import Unused
from pesloss.data.reading.shapes import in_words, of_shape
from pesloss.data.reading.units import Scale
from pesloss.data.reading.voigt import voigt_index
from pesloss.data.reading.weights import Spread, as_weight, spreads, weight_places
from pesloss.losses.properties import Property
from pesloss.losses.voigt import VOIGT_ASE

Signature: TypeAlias = tuple[Any, ...]
Found: TypeAlias = Sequence[tuple[Place, np.ndarray]]


@dataclass(frozen=True)
class Label:
    """A property of structures that carry it in the same places.

    Args:
        prop: what is wanted.
        own: what stands in the file: the same, or its partner.
        scales: place -> what its numbers are multiplied with, the sign included.
        voigt: order of the six numbers of a symmetric tensor.
        partner: the other of stress and virial, if that stands there too, which has to say the same.
    """

    prop: Property
    own: Property
    scales: Mapping[Place, Scale]
    voigt: str
    partner: Label | None = None

    @cached_property
    def _order(self) -> Int64[np.ndarray, "3 3"]:
        return voigt_index(self.voigt)

    @property
    def account(self) -> str:
        """Where it comes from, in words."""
        place = str(next(iter(self.scales)))
        return place if self.own is self.prop else f"{place} ({conversion(self.prop.name)})"

    def __call__(self, frame: Frame, cell: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "..."]:
        """The label in pesloss's units.

        Args:
            frame: the structure as the file has it.
            cell: its lattice vectors in Å.

        Raises:
            ValueError: if the label makes no sense, if two places disagree, if stress and virial contradict
                each other, or if a stress has no volume.
        """
        place, value = self._found(frame)
        if self.partner is not None:
            self._check_partner(self.partner, frame, volume(cell))
        if "stress" not in (self.prop.name, self.own.name):
            return value
        size = volume(cell)
        if size == 0 and np.isfinite(value).any():
            raise ValueError(
                f"'{self.prop.name}' from {place} needs a volume, but the cell has none; "
                "a stress exists for a cell of three lattice vectors only."
            )
        return value if self.own is self.prop else converted(value, self.prop.name, size)

    def _found(self, frame: Frame) -> tuple[Place, Float64[np.ndarray, "..."]]:
        values = [(place, self._value(frame, place, scale)) for place, scale in self.scales.items()]
        return _only(self.own.name, values)

    def _check_partner(self, partner: Label, frame: Frame, size: float) -> None:
        if size > 0:
            Pair(self._side(frame, size), partner._side(frame, size), len(frame.numbers), size).check()

    def _side(self, frame: Frame, size: float) -> Side:
        """What it says of the stress."""
        place, value = self._found(frame)
        stress = value if self.own.name == "stress" else converted(value, "stress", size)
        return Side(self.own.name, str(place), stress, np.shape(_at(place, frame)) == (6,), self.voigt)

    def _value(self, frame: Frame, place: Place, scale: Scale) -> Float64[np.ndarray, "..."]:
        num_atoms = len(frame.numbers)
        try:
            value = as_label(_at(place, frame), self.own, num_atoms, self._order)
        except ValueError as error:
            raise ValueError(f"'{self.own.name}' from {place} {error}.") from None
        if not scale.is_one:
            value *= scale.factor * num_atoms if scale.per_atom else scale.factor
        return value


@dataclass(frozen=True)
class Weight:
    """A weight of structures that carry it in the same places."""

    name: str
    places: Sequence[Place]
    spread: Sequence[Spread]

    @property
    def account(self) -> str:
        """Where it comes from, in words."""
        return str(self.places[0])

    def __call__(self, frame: Frame) -> Float64[np.ndarray, "..."]:
        """The weights.

        Raises:
            ValueError: if they make no sense, or if two places disagree.
        """
        return _only(self.name, [(place, self._value(frame, place)) for place in self.places])[1]

    def _value(self, frame: Frame, place: Place) -> Float64[np.ndarray, "..."]:
        try:
            return as_weight(_at(place, frame), self.spread, len(frame.numbers))
        except ValueError as error:
            raise ValueError(f"'{self.name}' from {place} {error}.") from None


@dataclass
class Plan:
    """What to read from structures of one signature.

    Args:
        labels: by property.
        weights: by name.
        length: of positions and cell, to Å.
        seen: where there is anything, and what, in words.
        uses: number of structures read by it.
    """

    labels: Mapping[str, Label]
    weights: Mapping[str, Weight]
    length: Scale
    seen: Mapping[Place, str]
    uses: int = 0

    @property
    def used(self) -> set[Place]:
        """Where something was read from."""
        labels = [one for label in self.labels.values() for one in (label, label.partner) if one]
        places = {place for label in labels for place in label.scales}
        return places | {place for weight in self.weights.values() for place in weight.places}


@dataclass
class Lookup:
    """Finds what is wanted in the structures of one file.

    Args:
        file: complete, as ``as_files`` gives it.
        properties: what is wanted, by name.
        conversions: scales of the file's quantities.
    """

    file: File
    properties: Mapping[str, Property]
    conversions: Conversions
    plans: dict[Signature, Plan] = field(default_factory=dict)

    def __call__(self, frame: Frame) -> Plan:
        """The plan for a structure; structures that carry the same entries share one."""
        signature = _signature(frame)
        plan = self.plans.get(signature) or self.plans.setdefault(signature, self._plan(frame))
        plan.uses += 1
        return plan

    @property
    def seen(self) -> set[Place]:
        """Where any structure has anything."""
        return {place for plan in self.plans.values() for place in plan.seen}

    def all_seen(self) -> dict[Place, Unused]:
        """What any structure has, read or not, in the order of the places."""
        counts: dict[Place, Counter[str]] = defaultdict(Counter)
        for plan in self.plans.values():
            for place, shape in plan.seen.items():
                counts[place][shape] += plan.uses
        return {
            place: Unused(*place, found.total(), found.most_common(1)[0][0])
            for place, found in sorted(counts.items())
        }

    def sources(self, name: str) -> dict[str, int]:
        """Where a label or a weight came from, and how often."""
        counts: Counter[str] = Counter()
        for plan in self.plans.values():
            if found := plan.labels.get(name) or plan.weights.get(name):
                counts[found.account] += plan.uses
        return dict(counts)

    def changes(self) -> dict[str, str]:
        """What was done to the file's numbers, by quantity."""
        found = {}
        for plan in self.plans.values():
            found["positions"] = _words(plan.length)
            for label in plan.labels.values():
                found[label.own.name] = _change(label, self.file.signs)
        return {name: words for name, words in found.items() if words}

    def _plan(self, frame: Frame) -> Plan:
        num_atoms = len(frame.numbers)
        here = {
            Place(where, str(key)): value
            for where, values in frame.content.items()
            for key, value in values.items()
            if value is not None
        }
        seen = {place: in_words(place, value, num_atoms) for place, value in here.items()}
        seen |= {Place(DATA, key): of_shape(shape, num_atoms) for key, shape in frame.unread}
        labels = {name: self._label(prop, frame, seen) for name, prop in self.properties.items()}
        weights = {name: self._weight(name, places, seen) for name, places in self._weight_places.items()}
        return Plan(
            labels={name: label for name, label in labels.items() if label},
            weights={name: weight for name, weight in weights.items() if weight},
            length=self.conversions.length(frame.units.get("positions")),
            seen=seen,
        )

    def _label(self, prop: Property, frame: Frame, seen: Collection[Place]) -> Label | None:
        """Under the property's own name, else from its partner's; if both are there, they have to agree."""
        both = [self._spelt(prop, own, frame, seen) for own in spellings(prop, self.file.keys)]
        found = [label for label in both if label]
        return replace(found[0], partner=found[1] if len(found) > 1 else None) if found else None

    def _spelt(self, prop: Property, own: Property, frame: Frame, seen: Collection[Place]) -> Label | None:
        own = prop if own.name == prop.name else own
        places = [place for place in candidates(own, self.file.keys) if place in seen]
        scales = {place: self._scale(own, frame.units.get(place.key)) for place in places}
        return Label(prop, own, scales, self.file.voigt or VOIGT_ASE) if scales else None

    def _scale(self, prop: Property, stated: str | None) -> Scale:
        found = self.conversions.of(prop, stated)
        return replace(found, factor=found.factor * self.file.signs.get(prop.name, 1))

    @cached_property
    def _weight_places(self) -> Mapping[str, Sequence[Place]]:
        return weight_places(self.properties)

    def _weight(self, name: str, usual: Sequence[Place], seen: Collection[Place]) -> Weight | None:
        places = key_places(self.file.keys[name]) if name in self.file.keys else usual
        if found := [place for place in places if place in seen]:
            return Weight(name, found, spreads(name, self.properties))
        return None


def _signature(frame: Frame) -> Signature:
    entries = [
        (where, *[key for key, value in values.items() if value is not None])
        for where, values in frame.content.items()
    ]
    return (*entries, frame.unread, *frame.units.items())


def _at(place: Place, frame: Frame) -> Any:
    return frame.content[place.where][place.key]


def _only(item: str, found: Found) -> tuple[Place, np.ndarray]:
    """The value that all places agree on, since a guess would train on the wrong one."""
    first, reference = found[0]
    for place, value in found[1:]:
        if value.shape != reference.shape or not np.allclose(value, reference, 1e-8, 1e-6, equal_nan=True):
            raise ValueError(
                f"'{item}' stands in {first} and in {place}, and they differ; say which one is meant: "
                f"keys={{'{item}': '{first.key}'}} or keys={{'{item}': '{place.key}'}}."
            )
    return found[0]


def _change(label: Label, signs: Mapping[str, int]) -> str:
    scale = next(iter(label.scales.values()))
    sign = signs.get(label.own.name, 1)
    words = [_words(replace(scale, factor=scale.factor * sign))]
    words += ["sign −1"] * (sign == -1)
    words += [f"{SIX_NUMBERS}{label.voigt}"] * (is_voigt(label.own) and label.voigt != VOIGT_ASE)
    return ", ".join(word for word in words if word)


def _words(scale: Scale) -> str:
    if scale.is_one:
        return ""
    return f"from {scale.text} (× {scale.factor:.7g}{' × number of atoms' if scale.per_atom else ''})"

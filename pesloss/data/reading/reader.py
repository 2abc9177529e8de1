"""From files to labelled structures: each label is found, checked, converted and counted, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from pesloss.data.reading.conversions import BASES, Conversions
from pesloss.data.reading.files import File, Index, Paths, as_files
from pesloss.data.reading.formats.base import DATA, INFO, Content, Frame, Place
from pesloss.data.reading.geometry import check_geometry
from pesloss.data.reading.labels import PARTNERS, candidates, num_labelled, spellings
from pesloss.data.reading.lookup import Lookup, Plan
from pesloss.data.reading.report import FileReport, Found, Report
from pesloss.data.reading.structures import Structure, Structures, source
from pesloss.data.reading.units import Scale
from pesloss.data.reading.weights import weight_names, weight_places
from pesloss.losses.properties import PROPERTIES, Property
from pesloss.names import unknown


def read(
    path: Paths,
    properties: Mapping[str, Property],
    *,
    keys: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    signs: Mapping[str, int] | None = None,
    voigt: str | None = None,
    index: Index = ":",
) -> Structures:
    """All labelled structures of one or more files in memory, in eV, Å and e with ASE's signs.

    A label is looked for in the calculator's results (where ASE puts what it knows by name), then in
    ``info`` (structures) or ``arrays`` (atoms) under the property's name, also with ``REF_`` or ``DFT_`` in
    front. Stress and virial stand in for each other, ``virial = −volume · stress``. What a structure does
    not have is a missing label.

    Weights come from ``weight`` or ``config_weight`` and ``<property>_weight`` or
    ``config_<property>_weight`` in ``info``, from ``atom_weight``, ``weight`` and ``<property>_weight`` in
    ``arrays``.

    Args:
        path: a file (a path or a ``File``), several, or files by the name of their dataset.
        properties: properties to look for, by name.
        keys: property (or ``weight``, ``atom_weight``, ``<property>_weight``, ``config_type``) -> key to
            read it from instead, wherever it stands.
        units: ``energy``, ``length``, ``charge`` or a property -> unit of the files, in words.
        signs: property -> −1 where the files have the other sign.
        voigt: order of the six numbers of a symmetric stress or virial, or ``ase`` or ``vasp``.
        index: which structures of each file, as ASE writes it: ``":"``, ``"-10:"``, ``0``.

    Raises:
        FileNotFoundError: if there is no such file.
        KeyError: if a key, unit or sign is given for something unknown, or no structure has the key.
        ValueError: if a file is empty or broken, a unit is missing or wrong, or a position, label or weight
            makes no sense.
    """
    files = as_files(path, keys=keys, units=units, signs=signs, voigt=voigt, index=index)
    readers = [Reader(file, properties, info=None) for file in files]
    structures = tuple(structure for reader in readers for structure in reader)
    check_keys(readers)
    return Structures(structures, Report(tuple(reader.report for reader in readers)))


class Reader:
    """Reads the labelled structures of one file one after another, in eV, Å and e with ASE's signs.

    Args:
        file: complete, as ``as_files`` gives it.
        properties: properties to look for, by name.
        info: what else to keep of each structure, by key; ``None`` for everything.

    Raises:
        KeyError: if a key, unit or sign is given for something unknown.
        ValueError: as ``read``, while the file is read.
    """

    def __init__(
        self, file: File, properties: Mapping[str, Property], *, info: Collection[str] | None = ()
    ) -> None:
        self.file = file
        self.properties = properties
        self.info = info
        self._config = file.keys.get("config_type", "config_type")
        self._count = _Count()
        self._lookup: Lookup | None = None
        self._check_names()

    def __iter__(self) -> Iterator[Structure]:
        from pesloss.data.reading.formats.opening import opened  # ASE's readers wait until a file is opened

        content = opened(self.file, self._wanted(), whole=self.info is None)
        self._count, self._lookup = _Count(), Lookup(self.file, self.properties, self._conversions(content))
        for row, frame in content.frames(content.rows(":" if self.file.index is None else self.file.index)):
            structure = self._structure(row, frame, self._lookup)
            self._count.add(structure, self.properties, frame.ignored)
            yield structure
        self._check_any(content)

    @property
    def report(self) -> FileReport:
        """What was found in the file; complete once all of it is read."""
        lookup, count = self._read_lookup, self._count
        weights = {name for plan in lookup.plans.values() for name in plan.weights}
        used = {place for plan in lookup.plans.values() for place in plan.used}
        used |= {Place(INFO, self._config), Place(DATA, self._config)}
        return FileReport(
            file=str(self.file),
            dataset=self.file.dataset or "default",
            num_structures=count.structures,
            num_atoms=count.atoms,
            properties=tuple(self._found(prop, lookup) for prop in self.properties.values()),
            weights={name: lookup.sources(name) for name in sorted(weights)},
            unused=tuple(one for place, one in lookup.all_seen().items() if place not in used),
            ignored=dict(count.ignored),
            changes=lookup.changes(),
        )

    @property
    def seen(self) -> set[Place]:
        """Where any structure that was read has anything."""
        return self._read_lookup.seen

    @property
    def _read_lookup(self) -> Lookup:
        if self._lookup is None:
            raise ValueError(f"{self.file} has not been read yet.")
        return self._lookup

    def _structure(self, row: int, frame: Frame, lookup: Lookup) -> Structure:
        try:
            return self._made(row, frame, lookup(frame))
        except ValueError as error:
            raise ValueError(f"{source(str(self.file), row, frame.name)}: {error}") from None

    def _made(self, row: int, frame: Frame, plan: Plan) -> Structure:
        numbers = np.array(frame.numbers, dtype=np.int64)
        positions = _lengths("positions", frame.positions, plan.length)
        cell = _lengths("cell", frame.cell, plan.length)
        pbc = np.array(frame.pbc, dtype=bool)
        check_geometry(numbers, positions, cell, pbc)
        return Structure(
            numbers=numbers,
            positions=positions,
            cell=cell,
            pbc=pbc,
            labels={name: label(frame, cell) for name, label in plan.labels.items()},
            weights=self._weights(frame, plan),
            fixed=np.zeros(len(numbers), dtype=bool) if frame.fixed is None else frame.fixed,
            config_type=str(frame.info.get(self._config, "default")),
            dataset=self.file.dataset or "default",
            file=str(self.file),
            row=row,
            name=frame.name,
            info=frame.info
            if self.info is None
            else {key: frame.info[key] for key in self.info if key in frame.info},
        )

    def _weights(self, frame: Frame, plan: Plan) -> dict[str, np.ndarray]:
        weights = {name: weight(frame) for name, weight in plan.weights.items()}
        if self.file.weight != 1.0:
            weights["weight"] = np.array(weights.get("weight", 1.0) * self.file.weight)
        return weights

    def _conversions(self, content: Content) -> Conversions:
        for item in ("positions", "numbers", "cell", "pbc"):
            if item in self.file.keys and item not in content.geometry:
                raise KeyError(f"{self.file}: a file of format '{content.format}' has no key for its {item}.")
        stated = content.stated()
        try:
            return Conversions(self.file.units, stated, content.defined)
        except ValueError as error:
            raise ValueError(f"{self.file}: {error}") from None

    def _found(self, prop: Property, lookup: Lookup) -> Found:
        total = getattr(self._count, f"{prop.rows}s")
        return Found(prop.name, prop.rows, self._count.labelled[prop.name], total, lookup.sources(prop.name))

    def _wanted(self) -> set[str]:
        """Keys that anything may stand under."""
        own = [one for prop in self.properties.values() for one in spellings(prop, self.file.keys)]
        places = [candidates(prop, self.file.keys) for prop in own]
        places += list(weight_places(self.properties).values())
        named = {place.key for group in places for place in group}
        return named | {*self.file.keys.values(), self._config, *(self.info or ())}

    def _check_names(self) -> None:
        """Keys, units and signs are given for something there is."""
        labels = {*self.properties, *PROPERTIES}
        items = {*labels, *weight_names(labels), "config_type", "positions", "numbers", "cell", "pbc"}
        for item in self.file.keys:
            if item not in items:
                raise KeyError(f"{self.file}: {unknown('property in keys', item, items)}")
        for name in self.file.signs:
            if name not in labels:
                raise KeyError(f"{self.file}: {unknown('property in signs', name, labels)}")
        for name in self.file.units:
            if name not in (quantities := {*BASES, *labels}):
                raise KeyError(f"{self.file}: {unknown('quantity in units', name, quantities)}")

    def _check_any(self, content: Content) -> None:
        if self._count.structures:
            return
        if num := content.count():
            raise ValueError(
                f"Index {self.file.index!r} selects none of the {num} structures of {self.file}."
            )
        raise ValueError(f"{self.file} holds no structure (read as '{content.format}').")


class _Count:
    """How much was read."""

    def __init__(self) -> None:
        self.structures = 0
        self.atoms = 0
        self.pairs = 0
        self.labelled: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()

    def add(self, structure: Structure, properties: Mapping[str, Property], ignored: Sequence[str]) -> None:
        self.structures += 1
        self.atoms += structure.num_atoms
        self.pairs += structure.num_atoms**2
        self.ignored.update(ignored)
        for name, label in structure.labels.items():
            self.labelled[name] += num_labelled(label, properties[name])


def check_keys(readers: Sequence[Reader]) -> None:
    """What the user names a key for is in one at least of the files it is meant for, now that they are read.

    Raises:
        KeyError: if not.
    """
    keys = {entry for reader in readers for entry in reader.file.keys.items()}
    for item, key in sorted(keys):
        meant = [reader for reader in readers if reader.file.keys.get(item) == key]
        seen = {place.key for reader in meant for place in reader.seen if _may_hold(item, place)}
        if key not in seen and _is_asked(item, meant[0].properties):
            where = ", ".join(str(reader.file) for reader in meant)
            raise KeyError(
                f"keys: '{item}' is to be read from '{key}', which no structure of {where} has. "
                f"{unknown('key', key, seen)}"
            )


def _may_hold(item: str, place: Place) -> bool:
    return item != "config_type" or place.where in (INFO, DATA)


def _is_asked(item: str, properties: Mapping[str, Property]) -> bool:
    """Whether something is read under a key for this; positions and the like the format sees to."""
    partners = [PARTNERS[name] for name in properties if name in PARTNERS]
    return item in {*properties, *partners, *weight_names(properties), "config_type"}


def _lengths(name: str, value: object, scale: Scale) -> np.ndarray:
    try:
        lengths = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} need numbers, got {value!r}.") from None
    return lengths if scale.is_one else lengths * scale.factor

"""From files to labelled structures: every label is found, checked and accounted for, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from jaxtyping import Bool

from pesloss.data.files import Paths, named_files, read_atoms
from pesloss.data.labels import (
    INFO,
    PARTNERS,
    Place,
    as_label,
    contents,
    conversion,
    converted,
    find,
    key_places,
    usual_names,
    usual_places,
)
from pesloss.data.report import FileReport, Found, Report
from pesloss.data.structures import Structure, Structures
from pesloss.data.weights import find_weights
from pesloss.losses.properties import PROPERTIES, Property
from pesloss.names import unknown


def read(
    path: Paths,
    properties: Mapping[str, Property],
    *,
    keys: Mapping[str, str] | None = None,
    index: str | int | slice = ":",
) -> Structures:
    """Labelled structures of one or more files of any format that ASE reads, in eV and Å with ASE's signs.

    A label is looked for in the calculator's results (where ASE puts what it knows by name), then in
    ``info`` (structures) or ``arrays`` (atoms) under the property's name, also with ``REF_`` or ``DFT_`` in
    front. Stress and virial stand in for each other, ``virial = −volume · stress``. What a structure does
    not have is a missing label.

    Weights come from ``weight`` or ``config_weight`` and ``<property>_weight`` or
    ``config_<property>_weight`` in ``info``, from ``atom_weight``, ``weight`` and ``<property>_weight`` in
    ``arrays``.

    Args:
        path: a file, several, or files by the name of their dataset.
        properties: properties to look for, by name.
        keys: property (or ``weight``, ``atom_weight``, ``<property>_weight``, ``config_type``) -> key to
            read it from instead, wherever it stands.
        index: which structures of each file, as ASE writes it: ``":"``, ``"-10:"``, ``0``.

    Raises:
        FileNotFoundError: if there is no such file.
        KeyError: if a key is given for something unknown, or no structure has it.
        ValueError: if a file is empty or broken, or a position, label or weight makes no sense.
    """
    return read_files(named_files(path), properties, keys=keys, index=index)


def read_files(
    files: Sequence[tuple[str, Path]],
    properties: Mapping[str, Property],
    *,
    keys: Mapping[str, str] | None = None,
    index: str | int | slice = ":",
) -> Structures:
    """Labelled structures of files given as pairs of dataset name and path; ``read`` tells the rest."""
    keys = dict(keys or {})
    _check_items(keys, properties)
    parts = [(name, file, _read_file(file, name, properties, keys, index)) for name, file in files]
    readings = [reading for *_, part in parts for reading in part]
    _check_keys(keys, readings, [file for _, file in files])
    report = Report(tuple(_file_report(name, file, part, properties) for name, file, part in parts))
    return Structures(tuple(reading.structure for reading in readings), report)


@dataclass(frozen=True)
class _Reading:
    """A structure, where each of its labels and weights was found, and what else it carried."""

    structure: Structure
    sources: Mapping[str, str]
    used: frozenset[Place]
    seen: frozenset[Place]
    ignored: tuple[str, ...]


def _read_file(
    file: Path,
    dataset: str,
    properties: Mapping[str, Property],
    keys: Mapping[str, str],
    index: str | int | slice,
) -> list[_Reading]:
    return [
        _located(f"{file}, structure {row}", dataset, atoms, properties, keys)
        for row, atoms in read_atoms(file, index)
    ]


def _located(
    source: str, dataset: str, atoms: Atoms, properties: Mapping[str, Property], keys: Mapping[str, str]
) -> _Reading:
    try:
        return _reading(source, dataset, atoms, properties, keys)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _reading(
    source: str, dataset: str, atoms: Atoms, properties: Mapping[str, Property], keys: Mapping[str, str]
) -> _Reading:
    _check_geometry(atoms)
    content = contents(atoms)
    labels = {
        name: found for name, prop in properties.items() if (found := _label(prop, atoms, content, keys))
    }
    weights = find_weights(properties.values(), len(atoms), content, keys)
    config = keys.get("config_type", "config_type")
    structure = Structure(
        numbers=atoms.numbers.astype(np.int64),
        positions=atoms.positions.astype(np.float64),
        cell=np.array(atoms.cell.array, dtype=np.float64),
        pbc=np.array(atoms.pbc, dtype=bool),
        labels={name: value for name, (_, value, _) in labels.items()},
        weights={name: value for name, (_, value) in weights.items()},
        fixed=_fixed(atoms),
        config_type=str(atoms.info.get(config, "default")),
        dataset=dataset,
        source=source,
        info=atoms.info,
    )
    used = {place for place, *_ in (*labels.values(), *weights.values())} | {Place(INFO, config)}
    sources = {name: text for name, (_, _, text) in labels.items()}
    sources |= {name: str(place) for name, (place, _) in weights.items()}
    others = {
        type(constraint).__name__ for constraint in atoms.constraints if not isinstance(constraint, FixAtoms)
    }
    ignored = tuple(f"constraint {name}" for name in sorted(others))
    return _Reading(structure, sources, frozenset(used), frozenset(content), ignored)


def _check_geometry(atoms: Atoms) -> None:
    if len(atoms) == 0:
        raise ValueError("it has no atoms.")
    if (atoms.numbers < 1).any():
        raise ValueError(
            f"atom {int(np.argmax(atoms.numbers < 1))} is no chemical element (atomic number 0)."
        )
    bad = ~np.isfinite(atoms.positions).all(axis=1)
    if bad.any():
        atom = int(np.argmax(bad))
        raise ValueError(f"positions of atom {atom} must be finite, got {atoms.positions[atom].tolist()}.")
    if not np.isfinite(atoms.cell.array).all():
        raise ValueError(f"the cell must be finite, got {atoms.cell.array.tolist()}.")
    if np.linalg.matrix_rank(atoms.cell.array[atoms.pbc]) < atoms.pbc.sum():
        raise ValueError(
            f"it repeats along {atoms.pbc.tolist()}, but those lattice vectors span no such space: "
            f"{atoms.cell.array.tolist()}."
        )


def _label(
    prop: Property, atoms: Atoms, content: Mapping[Place, Any], keys: Mapping[str, str]
) -> tuple[Place, np.ndarray, str] | None:
    """Place, value and its account: under the property's own name, else converted from its partner's."""
    volume = abs(float(np.linalg.det(atoms.cell.array)))
    for name in _spellings(prop, keys):
        own = prop if name == prop.name else PROPERTIES[name]
        parse = partial(as_label, prop=own, num_atoms=len(atoms))
        if found := find(name, _candidates(own, keys), content, parse):
            place, value = found
            _check_volume(prop.name, name, place, value, volume)
            if own is prop:
                return place, value, str(place)
            return place, converted(value, prop.name, volume), f"{place} ({conversion(prop.name)})"
    return None


def _spellings(prop: Property, keys: Mapping[str, str]) -> list[str]:
    """Names of the quantity, its own first; those the user has a key for shut out the others."""
    names = [prop.name]
    if prop.name in PARTNERS and prop == PROPERTIES[prop.name]:
        names.append(PARTNERS[prop.name])
    return [name for name in names if name in keys] or names


def _candidates(prop: Property, keys: Mapping[str, str]) -> list[Place]:
    if prop.name in keys:
        return key_places(keys[prop.name])
    return usual_places(usual_names(prop), prop.rows)


def _check_volume(wanted: str, name: str, place: Place, value: np.ndarray, volume: float) -> None:
    if "stress" in (wanted, name) and volume == 0 and np.isfinite(value).any():
        raise ValueError(
            f"'{wanted}' from {place} needs a volume, but the cell has none; "
            "a stress exists for a cell of three lattice vectors only."
        )


def _fixed(atoms: Atoms) -> Bool[np.ndarray, "atoms"]:
    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.get_indices()] = True
    return fixed


def _check_items(keys: Mapping[str, str], properties: Mapping[str, Property]) -> None:
    """The user's keys are for something that is read."""
    partners = [PARTNERS[name] for name in properties if name in PARTNERS]
    items = {*properties, *partners, *(f"{name}_weight" for name in properties)}
    items |= {"weight", "atom_weight", "config_type"}
    for item in keys:
        if item not in items:
            raise KeyError(unknown("property in keys", item, items))


def _check_keys(keys: Mapping[str, str], readings: Sequence[_Reading], files: Sequence[Path]) -> None:
    """The user's keys are in the files."""
    places = {place for reading in readings for place in reading.seen}
    for item, key in keys.items():
        seen = {place.key for place in places if item != "config_type" or place.where == INFO}
        if key not in seen:
            where = ", ".join(map(str, files))
            raise KeyError(
                f"keys: '{item}' is to be read from '{key}', which no structure of {where} has. "
                f"{unknown('key', key, seen)}"
            )


def _file_report(
    dataset: str, file: Path, readings: Sequence[_Reading], properties: Mapping[str, Property]
) -> FileReport:
    seen = {place for reading in readings for place in reading.seen}
    used = {place for reading in readings for place in reading.used}
    weights = {name for reading in readings for name in reading.structure.weights}
    return FileReport(
        file=str(file),
        dataset=dataset,
        num_structures=len(readings),
        num_atoms=sum(reading.structure.num_atoms for reading in readings),
        properties=tuple(_found(prop, readings) for prop in properties.values()),
        weights={name: _sources(name, readings) for name in sorted(weights)},
        unused=tuple(str(place) for place in sorted(seen - used)),
        ignored=dict(Counter(what for reading in readings for what in reading.ignored)),
    )


def _found(prop: Property, readings: Sequence[_Reading]) -> Found:
    structures = [reading.structure for reading in readings]
    total = sum(s.num_atoms if prop.rows == "atom" else 1 for s in structures)
    labelled = sum(_rows(s.labels[prop.name], prop) for s in structures if prop.name in s.labels)
    return Found(prop.name, prop.rows, labelled, total, _sources(prop.name, readings))


def _rows(label: np.ndarray, prop: Property) -> int:
    entries = len(prop.shape)
    finite = (
        np.isfinite(label).any(axis=tuple(range(label.ndim - entries, label.ndim)))
        if entries
        else np.isfinite(label)
    )
    return int(finite.sum())


def _sources(name: str, readings: Sequence[_Reading]) -> dict[str, int]:
    return dict(Counter(reading.sources[name] for reading in readings if name in reading.sources))

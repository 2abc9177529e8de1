"""What lies unread in the files: labels that no term uses, keys that look misspelt, names that were meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from pesloss.checks.findings import Finding, named
from pesloss.checks.subject import Subject
from pesloss.data.reading.labels import ALIASES, IN_DATA, PARTNERS, PREFIXES, is_voigt, usual_places
from pesloss.data.reading.report import FileReport, Unused
from pesloss.data.reading.shapes import an_atom, numbers
from pesloss.data.reading.weights import weight_places
from pesloss.losses.properties import PROPERTIES, Property

MAIN = ("energy", "forces", "stress", "virial")
"""What nearly every potential is trained on; labels of these that nobody uses are more often forgotten than
left out."""
OTHER_NAMES = {
    "energy": ("etot", "e_tot", "toten", "u0", "u", "potential_energy", "free_energy"),
    "forces": ("f", "frc", "gradient", "gradients", "grad"),
    "stress": ("stresses", "pressure_tensor"),
    "virial": ("w",),
}
"""What else people call them, in small letters, too loosely to be read without being asked."""
NO_LABELS = ("momenta", "velocities", "velo", "vel", "initial_magmoms", "displacements", "lattice", "cell")
"""Vectors and tensors with names that say that they are something else."""
ALIKE = 0.75  # of difflib: a letter or two in eight are wrong
ALIKE_AS_WEIGHT = 0.8
LIKELY = 0.6  # where nothing better is known
TELLING = 0.6  # what a shape that few things have says by itself
FEW = 3  # candidates in a sentence
TERMS_OF_CONF = ("charges", "dipole", "energy", "forces", "hessian", "polarizability", "stress", "virial")
"""Terms that a config can name."""


def unused(subject: Subject) -> Iterator[Finding]:
    """Labels that no term uses, and keys that look misspelt, are work that the loss does not see."""
    yield from _without_term(subject)
    yield from _misspelt(subject)
    yield from _misspelt_weights(subject)


def _without_term(subject: Subject) -> Iterator[Finding]:
    """Properties at their usual places that the loss has no term for."""
    wanted = {*subject.labels, *(prop.name for prop in subject.labels.values())}
    wanted |= {PARTNERS[name] for name in wanted if name in PARTNERS}
    every = unread_places(subject.store.report.files)
    for name, prop in PROPERTIES.items():
        places = {(place.where, place.key) for place in usual_places(prop)}
        found = [one for one in every if (one.where, one.key) in places]
        if found and name not in wanted:
            hint = f": +loss/term@loss.terms.{name}={name} would" if name in TERMS_OF_CONF else ""
            yield Finding(
                "warning" if name in MAIN else "note",
                "unused",
                f"'{name}' is labelled at {named([str(one) for one in found], FEW)}, and no term of the loss "
                f"uses it{hint}.",
            )


def _misspelt(subject: Subject) -> Iterator[Finding]:
    """Keys that look like a property which the structures of their file lack in part."""
    dead = {
        name for name in subject.labels if len(subject.data.train) and name not in subject.data.train.labelled
    }
    for file in subject.store.report.files:
        for found in file.properties:
            prop = subject.labels.get(found.property)
            if prop is None or found.labelled == found.total or prop.name in dead:
                continue  # the check of the labels has an error for the dead
            near = [one for one in _readable(file.unused) if _name_score(prop, one.key) >= ALIKE]
            near = [one for one in near if _fits(prop, one)]
            if near:
                yield _looks_like(found.property, found.labelled, found.total, near, file)


def _looks_like(name: str, labelled: int, total: int, near: Sequence[Unused], file: FileReport) -> Finding:
    where, key = named([str(one) for one in near], FEW), f"{{path: ..., keys: {{{name}: {near[0].key}}}}}"
    return Finding(
        "warning",
        "unused",
        f"{file.file}: {where} lies unread and looks like '{name}', of which {labelled} of {total} rows have "
        f"a label. Give it the usual name there, or a key to that file: {key}.",
    )


def _misspelt_weights(subject: Subject) -> Iterator[Finding]:
    """Keys that look like a weight that nobody reads."""
    known = {place.key for places in weight_places(PROPERTIES).values() for place in places}
    for one in _readable(unread_places(subject.store.report.files)):
        near = difflib.get_close_matches(_stem(one.key), sorted(known), n=1, cutoff=ALIKE_AS_WEIGHT)
        if near and one.key not in known and _says_weight(one.key):
            yield Finding(
                "warning",
                "unused",
                f"{one} lies unread and looks like a weight: did you mean '{near[0]}'? As it is, it weighs "
                "nothing.",
            )


def candidates(prop: Property, unread: Iterable[Unused]) -> list[Unused]:
    """What may be a label of a property, the likeliest first: by its name, or by a shape that is rare.

    Example:
        >>> unread = [Unused("arrays", "F", 9, "3 numbers an atom"), Unused("info", "T", 9, "a number")]
        >>> [one.key for one in candidates(PROPERTIES["forces"], unread)]
        ['F']
    """
    fitting = [one for one in _readable(unread) if _fits(prop, one)]
    telling = prop.rows == "atom" and len(prop.shape) > 0
    others = {
        place.key for own in PROPERTIES.values() if own.name != prop.name for place in usual_places(own)
    }
    scores = {
        one: _name_score(prop, one.key) + (TELLING if telling and one.shape and one.key not in others else 0)
        for one in fitting
    }
    return sorted((one for one in fitting if scores[one] >= LIKELY), key=lambda one: -scores[one])


def _name_score(prop: Property, key: str) -> float:
    """How much a key is like a property's name, from 0 to 1."""
    stem = _stem(key)
    names = {prop.name, *(*ALIASES.get(prop.name, ()), *IN_DATA.get(prop.name, ()))}
    names = {name.lower() for name in names} | {*OTHER_NAMES.get(prop.name, ())}
    words = set(re.split("[^a-z0-9]+", stem))
    if stem in names:
        return 1.0
    long = [name for name in names if len(name) > 2]
    if words & {*long}:
        return 0.9
    return max(difflib.SequenceMatcher(None, stem, name).ratio() for name in long)


def _says_weight(key: str) -> bool:
    words = [word for word in key.lower().split("_") if word.startswith("w")]
    return bool(difflib.get_close_matches("weight", words, n=1, cutoff=ALIKE))


def _stem(key: str) -> str:
    prefix = next((one for one in PREFIXES if one and key.startswith(one)), "")
    return key.removeprefix(prefix).lower()


def _fits(prop: Property, one: Unused) -> bool:
    """Whether what stands there has a shape of the property, as far as is known."""
    return not one.shape or one.shape in _shapes(prop)


def _shapes(prop: Property) -> set[str]:
    entries = {tuple(prop.shape), (int(np.prod(prop.shape)),)} | ({(6,)} if is_voigt(prop) else set())
    return {an_atom(entry) if prop.rows == "atom" else numbers(entry) for entry in entries}


def _readable(unread: Iterable[Unused]) -> list[Unused]:
    """Without what is text, or says that it is something else."""
    return [
        one
        for one in unread
        if one.shape not in ("text", "true or false") and one.key.lower() not in NO_LABELS
    ]


def unread_places(files: Iterable[FileReport]) -> list[Unused]:
    """What lay unread in several files, one entry for each place."""
    counts: dict[Unused, int] = {}
    for file in files:
        for one in file.unused:
            counts[replace(one, structures=0)] = counts.get(replace(one, structures=0), 0) + one.structures
    return [replace(one, structures=count) for one, count in counts.items()]

"""Whether each term of the loss has labels to learn from, where, and what these are like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from pesloss.checks.findings import Finding, Said, Table, counted, named
from pesloss.checks.subject import Subject
from pesloss.checks.unused import candidates, unread_places
from pesloss.data import Packed
from pesloss.data.reading.report import FileReport
from pesloss.losses.batch import group_code
from pesloss.losses.properties import Property
from pesloss.losses.terms.base import Term

FEW = 3  # candidates in a sentence


def labels(subject: Subject) -> Iterator[Said]:
    """A term without labels is dead, silently in most codes; the table says what each learns from, and where.

    The table has a row for each term, split and dataset. A row of the property (a structure, an atom, a pair
    of atoms) is labelled if one of its components is; what counts in the loss are labelled components that no
    mask leaves out and whose weights are not 0.
    """
    labelled = [_Labelled(subject, *one) for one in _parts(subject)]
    yield _table(labelled)
    yield from _dead(subject, labelled)
    yield from _of_no_weight(labelled)
    yield from _unseen(labelled)
    yield from _by_dataset(labelled)


@dataclass(frozen=True)
class _Labelled:
    """Labels of one term in one split and dataset."""

    subject: Subject
    name: str
    key: str
    prop: Property
    split: str
    dataset: str
    rows: Int64[np.ndarray, "structures"]

    @property
    def weight(self) -> float:
        """Of the term, before training changes it."""
        loss = self.subject.loss
        prior = dict(zip(loss.weighting.names, loss.weighting.prior.tolist(), strict=True))
        return float(loss.weight) * prior[self.name]

    @cached_property
    def values(self) -> Shaped[np.ndarray, "rows *entry"]:
        """One row each, NaN where missing; energies as the loss sees them, but per atom."""
        column = self.subject.column(self.key)
        chosen = _rows(self.subject, self.prop, self.rows)
        if column is None:
            return np.full((int(chosen.sum()), *self.prop.shape), np.nan)
        if self.key != "energy":
            return column[chosen]
        lost = self.subject.data.train.reference
        energies = column if lost is None else column - lost
        return (energies / self.subject.store.structures["num_atoms"])[chosen]

    @cached_property
    def labelled(self) -> int:
        """Number of rows with a component that is not missing."""
        return int(np.isfinite(self.values).reshape(len(self.values), -1).any(axis=1).sum())

    @cached_property
    def counting(self) -> int | None:
        """Labelled components that no mask leaves out and whose weight is not 0, if the data alone say so."""
        loss = self.subject.loss
        term: Term = loss.by_name[self.name]
        part = Packed(self.subject.store, self.rows)
        try:
            return sum(int(term.count(loss.weigh(chunk)).labels) for chunk in part.chunks())
        except KeyError:  # a mask or a direction that only whoever trains puts into the batch
            return None

    @property
    def unit(self) -> str:
        return f"{self.prop.unit}/atom" if self.key == "energy" else self.prop.unit

    @property
    def sources(self) -> str:
        """Where the files had it, and how often."""
        counts: Counter[str] = Counter()
        for file in self._files:
            found = next((one for one in file.properties if one.property == self.key), None)
            counts.update(found.sources if found else {})
        return (
            ", ".join(f"{place} ({count})" for place, count in counts.items())
            if len(counts) > 1
            else "".join(counts)
        )

    @property
    def _files(self) -> list[FileReport]:
        store = self.subject.store
        names = {store.about["files"][code] for code in np.unique(store.structures["file"][self.rows])}
        return [file for file in store.report.files if file.file in names]

    def row(self) -> tuple[str | int | float | None, ...]:
        """Its row of the table."""
        about = (self.name, self.weight, self.split, self.dataset, self.labelled, len(self.values))
        return (*about, self.counting, *_statistics(self.values), self.unit, self.sources)


def _parts(
    subject: Subject,
) -> Iterator[tuple[str, str, Property, str, str, Int64[np.ndarray, "structures"]]]:
    """Terms, what they compare, splits and datasets that have a structure."""
    codes = subject.store.structures["dataset"]
    for name, term in subject.loss.by_name.items():
        for key, prop in term.labels.items():
            for split, rows in subject.splits.items():
                for dataset in subject.data.datasets:
                    own = rows[codes[rows] == group_code(dataset)]
                    if len(own):
                        yield name, key, prop, split, dataset, own


def _rows(
    subject: Subject, prop: Property, structures: Int64[np.ndarray, "structures"]
) -> Bool[np.ndarray, "rows"]:
    """Which rows of a property belong to some structures."""
    chosen = np.zeros(len(subject.store), dtype=bool)
    chosen[structures] = True
    num_atoms = subject.store.structures["num_atoms"]
    counts = {"structure": np.ones_like(num_atoms), "atom": num_atoms, "pair": num_atoms**2}
    return np.repeat(chosen, counts[prop.rows])


def _table(labelled: Sequence[_Labelled]) -> Table:
    columns = ("term", "weight", "split", "dataset", "labelled", "rows", "count")
    columns += ("min", "median", "max", "RMS", "unit", "read from")
    title = (
        "Labels: labelled rows of all, the components that count, and what they are like "
        "(energies per atom, without their references, as the loss sees them)"
    )
    return Table(title, columns, tuple(one.row() for one in labelled))


def _statistics(values: Shaped[np.ndarray, "..."]) -> tuple[float | None, ...]:
    """Smallest, median, largest and root mean square component."""
    known = values[np.isfinite(values)]
    if not len(known):
        return (None,) * 4
    return tuple(map(float, (known.min(), np.median(known), known.max(), np.sqrt(np.mean(known**2)))))


def _dead(subject: Subject, labelled: Sequence[_Labelled]) -> Iterator[Finding]:
    """Terms that no training structure has a label for."""
    training = [one for one in labelled if one.split == "train"]
    for name, key, prop in dict.fromkeys((one.name, one.key, one.prop) for one in training):
        if any(one.labelled for one in training if (one.name, one.key) == (name, key)):
            continue
        weight = next(one.weight for one in training if one.name == name)
        yield Finding(
            "error",
            "labels",
            f"The loss has a term '{name}' of weight {weight:g}, but no training structure has a label for "
            f"'{key}'. {_meant(replace(prop, name=key), subject)}, or remove the term with "
            f"loss.weights.{name}=0.",
        )


def _meant(prop: Property, subject: Subject) -> str:
    """What lay unread that may be a label, in words; without the full stop."""
    every = unread_places(subject.store.report.files)
    if near := candidates(prop, every):
        found = named([str(one) for one in near], FEW)
        return f"Unread, but alike: {found}. Name its key with +data.keys.{prop.name}={near[0].key}"
    rest = named([str(one) for one in every], FEW)
    about = f"Unread: {rest}. " if every else "Nothing else lies in the files. "
    return f"{about}Name its key with +data.keys.{prop.name}=..."


def _of_no_weight(labelled: Sequence[_Labelled]) -> Iterator[Finding]:
    """Terms all of whose labels are masked or weigh nothing."""
    training = [one for one in labelled if one.split == "train"]
    for name in dict.fromkeys(one.name for one in training):
        own = [one for one in training if one.name == name]
        if any(one.labelled for one in own) and all(one.counting == 0 for one in own):
            yield Finding(
                "warning",
                "labels",
                f"The term '{name}' has {sum(one.labelled for one in own)} labelled rows in training, but "
                "not one counts: weights of structures, atoms or groups are 0, or its mask leaves them out.",
            )


def _unseen(labelled: Sequence[_Labelled]) -> Iterator[Finding]:
    """Labels that training has and validation or test have not."""
    totals: Counter[tuple[str, str]] = Counter()
    for one in labelled:
        totals[one.name, one.split] += one.labelled
    for (name, split), count in totals.items():
        if count or not totals[name, "train"]:
            continue
        if split == "val":
            message = (
                "no structure of validation has one: no error of it is seen, and the best is chosen without"
            )
            yield Finding("warning", "labels", f"'{name}' has labels in training, but {message}.")
        else:
            message = "no structure of the test has one, so its error will not be known"
            yield Finding("note", "labels", f"'{name}' has labels in training, but {message}.")


def _by_dataset(labelled: Sequence[_Labelled]) -> Iterator[Finding]:
    """Labels that one dataset has and another has not."""
    training = [one for one in labelled if one.split == "train"]
    for name, key in dict.fromkeys((one.name, one.key) for one in training):
        own = [one for one in training if (one.name, one.key) == (name, key)]
        without = [
            f"'{one.dataset}' ({counted(len(one.rows), 'structure')})" for one in own if not one.labelled
        ]
        having = [f"'{one.dataset}'" for one in own if one.labelled]
        if having and without:
            yield Finding(
                "note",
                "labels",
                f"'{key}' is labelled in {named(having)}, but not in {named(without)}: the term '{name}' "
                "learns nothing from these.",
            )

"""The structures that a model is worst at: what they are, how far off, and what they cost the loss."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float64
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from pesloss.losses import TotalLoss
from pesloss.losses.batch import Batch, Predictions, structure_of_row
from pesloss.losses.distributed import ranks
from pesloss.losses.properties import Property
from pesloss.report.shares import Shares
from pesloss.report.signs import Likeness, Signs
from pesloss.report.structures import Known, identities, labelled_pairs, structure_errors, text
from pesloss.training.metrics import Groups

SHOWN = 10
"""Structures of the table and the file."""
KEPT = 1000
"""Structures that are held until it is known what each term is divided by. A split of no more is sorted
exactly; of a larger one those are held that are worst by the sums so far."""
OUTLIER = 20.0
"""Times the mean contribution of a structure."""


@dataclass
class Structure:
    """A structure among the worst.

    Args:
        about: what it is and where it comes from.
        sums: what it adds to the sums of the terms.
        errors: in displayed units by what they are, with whether they are known.
        signs: order of magnitude of its labels and what is wrong with its predictions, by property.
        points: labels and predictions of properties that something is wrong with, in the displayed unit.
        terms: what it adds to the loss, by term; known in the end.
    """

    about: Mapping[str, str]
    sums: Float64[Tensor, "channels"]
    errors: Mapping[str, tuple[float, bool]]
    signs: Mapping[str, tuple[int, str]]
    points: Mapping[str, Float64[np.ndarray, "2 components"]]
    terms: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is, in as few words as a terminal has room for."""
        kinds = (self.about["formula"], self.about["config_type"])
        return f"{Path(self.about['source']).name} ({', '.join(filter(None, kinds))})"

    @property
    def cost(self) -> float:
        """What it adds to the loss; infinite where that is no number."""
        cost = sum(self.terms.values())
        return cost if isfinite(cost) else inf


@dataclass(frozen=True)
class WorstStructures:
    """The worst structures of a split.

    Args:
        rows: the worst first.
        flags: what is suspicious about each.
        total: what all structures cost.
        of: what that is, in words.
        sentences: what is suspicious about many structures.
    """

    rows: Sequence[Structure]
    flags: Sequence[Sequence[str]]
    total: float
    of: str
    sentences: Sequence[str]

    def columns(self) -> Iterator[dict[str, str]]:
        """All that is known of each structure, as text by the name of the column."""
        for row, flags in zip(self.rows, self.flags, strict=True):
            shares = {f"share/{name} [%]": self._percent(value) for name, value in row.terms.items()}
            errors = {name: text(*error) for name, error in row.errors.items()}
            yield {
                **row.about,
                "share [%]": self._percent(row.cost),
                **shares,
                **errors,
                "flags": "; ".join(flags),
            }

    def write(self, path: Path) -> None:
        """The table as a file."""
        rows = list(self.columns())
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)

    def table(self, split: str, properties: Mapping[str, Property]) -> Table:
        """The table for a terminal: of each property the error that tells most."""
        caption = f"share of {self.of}; worst_{split}.csv has more columns"
        title = f"Worst structures, {split}"
        table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
        table.add_column("structure", overflow="fold")
        table.add_column("share", justify="right")
        table.add_column("most of it")
        errors = _main_errors(self.rows[0], properties)
        for name in errors:
            table.add_column(escape(name.replace("/", "\n", 1).replace(" [", "\n[")), justify="right")
        table.add_column("flags")
        for row, flags in zip(self.rows, self.flags, strict=True):
            numbers = [f"{row.errors[name][0]:.4g}" if row.errors[name][1] else "" for name in errors]
            share = f"{self._percent(row.cost)} %".lstrip()
            most = max(row.terms, key=lambda term: row.terms[term]) if row.cost else ""
            table.add_row(escape(row.name), share, most, *numbers, "\n".join(flags))
        return table

    def points(self, name: str) -> Float64[np.ndarray, "2 components"]:
        """Labels and predictions of a property, of structures that are flagged for it."""
        flagged = [any(flag.startswith(f"{name}: ") for flag in flags) for flags in self.flags]
        found = [row.points[name] for row, is_flagged in zip(self.rows, flagged, strict=True) if is_flagged]
        return np.concatenate(found, axis=1) if found else np.empty((2, 0))

    def _percent(self, value: float) -> str:
        return f"{100 * value / self.total:.3g}" if self.total > 0 and isfinite(value) else ""


class Worst:
    """Finds the worst structures of a split, batch by batch, in memory that does not grow with it.

    Args:
        properties: what is predicted, by name.
        loss: what decides how bad an error is, where the predictions are; without it, squared errors do.
        source: from a structure's ``index`` to its file and place there.
        groups: names of config types and datasets.
    """

    def __init__(
        self,
        properties: Mapping[str, Property],
        loss: TotalLoss | None = None,
        *,
        source: Callable[[int], str] = str,
        groups: Groups | None = None,
    ) -> None:
        self._properties, self._source = dict(properties), source
        named = [(groups or {}).get(kind, {}) for kind in ("dataset", "config_type")]
        self._names = {code: name for names in named for name, code in names.items()}
        self._shares, self._signs = Shares(loss, properties), Signs(properties)
        self._held: list[Structure] = []
        self._least = -inf  # in units of the mean

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Count a batch in."""
        if not self._properties:
            return
        sums, signs = self._shares.add(predictions, batch), self._signs.add(predictions, batch)
        self._held.extend(self._described(self._admitted(sums), sums, signs, predictions, batch))
        if len(self._held) > 2 * KEPT:
            self._held = self._sorted()[:KEPT]
            mean = self._mean()
            self._least = self._held[-1].cost / mean if mean > 0 else -inf

    def compute(self) -> WorstStructures | None:
        """The worst structures of all ranks; ``None`` if nothing has a label."""
        if not self._properties:
            return None
        self._shares.pool()
        self._signs.pool()
        rows = sorted(_of_all_ranks(self._sorted()[:SHOWN]), key=lambda row: -row.cost)[:SHOWN]
        flags = {id(row): [*self._flags(row)] for row in rows}
        rows = [row for row in rows if row.cost != 0 or flags[id(row)]]
        if not rows:
            return None
        told = [flags[id(row)] for row in rows]
        return WorstStructures(rows, told, self._shares.total(), self._shares.of, [*self._signs.sentences()])

    def _admitted(self, sums: Float64[Tensor, "structures channels"]) -> list[int]:
        """Which structures may be among the worst."""
        mean = self._mean()
        if mean <= 0:
            return list(range(len(sums)))
        costs = torch.stack([*self._shares.of_structures(sums).values()]).sum(0).tolist()
        return [i for i, cost in enumerate(costs) if not cost / mean <= self._least]

    def _described(
        self,
        chosen: list[int],
        sums: Float64[Tensor, "structures channels"],
        signs: Mapping[str, Likeness],
        predictions: Predictions,
        batch: Batch,
    ) -> Iterator[Structure]:
        """Some structures of a batch, by all that can be told of them."""
        about = identities(batch, self._source, self._names, chosen) if chosen else {}
        errors = self._errors(predictions, batch) if chosen else {}
        for place, i in enumerate(chosen):
            flags = {name: (int(like.grade[i]), like.flag(i)) for name, like in signs.items()}
            flagged = [name for name, (_, flag) in flags.items() if flag]
            yield Structure(
                {name: values[place] for name, values in about.items()},
                sums[i],
                {name: (float(values[i]), bool(known[i])) for name, (values, known) in errors.items()},
                flags,
                {name: self._points(name, i, predictions, batch) for name in flagged},
            )

    def _sorted(self) -> list[Structure]:
        """Those that are held, the worst first."""
        if self._held:
            terms = self._shares.of_structures(torch.stack([row.sums for row in self._held]))
            numbers = zip(*(values.tolist() for values in terms.values()), strict=True)
            for row, values in zip(self._held, numbers, strict=False):
                row.terms = dict(zip(terms, values, strict=True))
        return sorted(self._held, key=lambda row: -row.cost)

    def _mean(self) -> float:
        """What a structure costs on average."""
        return self._shares.total() / max(self._shares.num, 1)

    def _flags(self, row: Structure) -> Iterator[str]:
        for name, (grade, flag) in row.signs.items():
            if flag and self._signs.tells(name, grade):
                yield f"{name}: {flag}"
        if row.cost == inf:
            yield "not finite"
        elif 0 < OUTLIER * self._mean() < row.cost:
            yield "outlier"

    def _errors(self, predictions: Predictions, batch: Batch) -> dict[str, Known]:
        found: dict[str, Known] = {}
        for name, prop in self._properties.items():
            if name in batch:
                found |= structure_errors(prop, predictions[name], batch)
        return {name: (values.cpu(), known.cpu()) for name, (values, known) in found.items()}

    def _points(
        self, name: str, structure: int, predictions: Predictions, batch: Batch
    ) -> Float64[np.ndarray, "2 components"]:
        """Labels and predictions of one structure, in the displayed unit."""
        prop = self._properties[name]
        own = structure_of_row(batch, prop.rows, len(batch[name])) == structure
        return labelled_pairs(prop, batch, predictions, own).numpy()


def _of_all_ranks(rows: list[Structure]) -> list[Structure]:
    if ranks() == 1:
        return rows
    found: list[list[Structure]] = [[] for _ in range(ranks())]
    dist.all_gather_object(found, rows)
    return [row for own in found for row in own]


def _main_errors(row: Structure, properties: Mapping[str, Property]) -> list[str]:
    """Names of the last error of each property."""
    last = {name.partition("/")[0]: name for name in row.errors}
    return [last[name] for name in properties if name in last]

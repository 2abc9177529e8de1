"""Errors of a model over a whole split: pooled sums, never means of batch means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from ase.data import chemical_symbols
from jaxtyping import Float64, Int64
from torch import Tensor

from pesloss.losses.batch import (
    Batch,
    Predictions,
    atom_counts,
    flat_rows,
    group_code,
    spread_rows,
    structure_of_row,
)
from pesloss.losses.distributed import ranks, sum_over_ranks
from pesloss.losses.properties import Property
from pesloss.losses.residuals import ModuloQuantum

Groups = Mapping[str, Mapping[str, int]]
"""What errors are told apart by (``element``, ``config_type``, ``dataset``) -> name -> code in a batch."""
Sums = Mapping[str, Tensor]
"""What is added up over the rows of a property, by name."""

ELEMENTS: Mapping[str, int] = {symbol: z for z, symbol in enumerate(chemical_symbols) if z > 0}


class Kind(NamedTuple):
    """A number that the errors of all rows are condensed to.

    Args:
        meaning: its definition, with e the prediction minus the label.
        counts: name of the sum that counts what it is a mean of.
        value: from the sums to the number.
    """

    meaning: str
    counts: str
    value: Callable[[Sums], Tensor]


def _mean(name: str, count: str) -> Callable[[Sums], Tensor]:
    return lambda sums: sums[name] / sums[count]


def _root(name: str, count: str) -> Callable[[Sums], Tensor]:
    return lambda sums: (sums[name] / sums[count]).sqrt()


def _deviation(sums: Sums) -> Tensor:
    mean = sums["error"] / sums["labels"]
    return (sums["square"] / sums["labels"] - mean.square()).clamp_min(0).sqrt()


NUMBERS: Mapping[str, Kind] = {
    "mae": Kind("mean of |e|", "labels", _mean("absolute", "labels")),
    "rmse": Kind("√(mean of e²)", "labels", _root("square", "labels")),
    "bias": Kind("mean of e", "labels", _mean("error", "labels")),
    "deviation": Kind("√(mean of (e − bias)²)", "labels", _deviation),
}
"""Errors of properties whose row is a number: energies (per atom), charges."""

TOTALS: Mapping[str, Kind] = {
    "mae_total": Kind("mean of |e|, not divided by the atoms", "labels", _mean("absolute_total", "labels")),
    "rmse_total": Kind("√(mean of e²), not divided by the atoms", "labels", _root("square_total", "labels")),
}
"""The same of the whole structure, for energies."""

VECTORS: Mapping[str, Kind] = {
    "mae_component": Kind("mean of |e_α| over labelled components", "labels", _mean("absolute", "labels")),
    "rmse_component": Kind("√(mean of e_α²) over labelled components", "labels", _root("square", "labels")),
    "mae_vector": Kind("mean of ‖e‖ over wholly labelled rows", "rows", _mean("length", "rows")),
    "rmse_vector": Kind("√(mean of ‖e‖²) over wholly labelled rows", "rows", _root("square_length", "rows")),
}
"""Errors of vectors and of tensors, all of whose components count, with the Frobenius norm as the length."""


def kinds(prop: Property) -> dict[str, Kind]:
    """The errors a property has, by name.

    Example:
        >>> from pesloss.losses import PROPERTIES
        >>> list(kinds(PROPERTIES["forces"]))
        ['mae_component', 'rmse_component', 'mae_vector', 'rmse_vector']
        >>> list(kinds(PROPERTIES["energy"]))
        ['mae', 'rmse', 'bias', 'deviation', 'mae_total', 'rmse_total']
    """
    if prop.shape:
        return dict(VECTORS)
    return {**NUMBERS, **TOTALS} if compared_per_atom(prop) else dict(NUMBERS)


def scores(properties: Mapping[str, Property]) -> list[str]:
    """Names of the errors that can select a checkpoint: all but the bias, which has a sign."""
    return [f"{name}/{kind}" for name, prop in properties.items() for kind in kinds(prop) if kind != "bias"]


def default_score(properties: Mapping[str, Property]) -> str:
    """The error of the forces' components, or the first of the first property; of none it has no name."""
    names = scores(properties)
    return "forces/mae_component" if "forces/mae_component" in names else next(iter(names), "")


def columns(prop: Property) -> tuple[str, ...]:
    """Names of what is added up for a property; the first counts its labels."""
    if prop.shape:
        return ("labels", "absolute", "square", "rows", "length", "square_length")
    numbers = ("labels", "error", "absolute", "square")
    return (*numbers, "absolute_total", "square_total") if compared_per_atom(prop) else numbers


def displayed_unit(prop: Property) -> tuple[float, str]:
    """Factor and unit in which errors of a property are told: meV instead of eV, energies per atom.

    Example:
        >>> from pesloss.losses import PROPERTIES
        >>> displayed_unit(PROPERTIES["energy"]), displayed_unit(PROPERTIES["dipole"])
        ((1000.0, 'meV/atom'), (1.0, 'e·Å'))
    """
    factor, unit = (1000.0, f"m{prop.unit}") if prop.unit.startswith("eV") else (1.0, prop.unit)
    return factor, f"{unit}/atom" if compared_per_atom(prop) else unit


def compared_per_atom(prop: Property) -> bool:
    """Whether errors are divided by the number of atoms: extensive energies and virials."""
    return prop.extensive and prop.unit.startswith("eV")


def compared(prop: Property, values: Tensor, batch: Batch) -> Tensor:
    """Values as they are compared, in float64."""
    values = values.double()
    if not compared_per_atom(prop):
        return values
    return values / spread_rows(atom_counts(batch), values.dim() - 1)


def on_branch(prop: Property, predictions: Tensor, batch: Batch) -> Tensor:
    """Polarizations of crystals on the branch next to their labels', since all branches mean the same."""
    if prop.name != "polarization" or "cell" not in batch:
        return predictions
    label = batch[prop.name]
    nearest = label + ModuloQuantum()(predictions, label, batch)
    return torch.where(nearest.isnan(), predictions, nearest)  # without a cell there is one branch


class Metric(NamedTuple):
    """One error of a model, pooled over a split or over a group of its rows.

    Args:
        value: in the unit.
        unit: in which it is told; empty for a number without one.
        labels: how many labels it is a mean of: components for ``..._component``, rows for the others.
    """

    value: float
    unit: str
    labels: int

    def column(self, key: str) -> str:
        """Name of the number in a table: what it is, and its unit."""
        return f"{key} [{self.unit}]" if self.unit else key


class Metrics:
    r"""Errors of each property, pooled over all labelled rows of a split.

    With e the prediction minus the label, both per atom for extensive energies and virials:

    - of numbers, ``mae`` = ⟨\|e\|⟩, ``rmse`` = √⟨e²⟩, ``bias`` = ⟨e⟩, ``deviation`` = √⟨(e − ⟨e⟩)²⟩, and for
      energies ``mae_total`` and ``rmse_total`` of the structure, not divided by its atoms;
    - of vectors and tensors, ``mae_component`` = ⟨\|e_α\|⟩ and ``rmse_component`` = √⟨e_α²⟩ over labelled
      components, ``mae_vector`` = ⟨‖e‖⟩ and ``rmse_vector`` = √⟨‖e‖²⟩ over rows without a missing component;
      polarizations of crystals are compared by their nearest branches.

    A missing label is NaN and counts nowhere; a prediction that is NaN makes its errors NaN. Sums are kept in
    float64 on the device of the batches, which is not waited for, and added over ranks in ``compute``, so
    neither batches nor ranks matter.

    Args:
        properties: what is compared, by name; every prediction must have what a batch labels.
        groups: what errors are told apart by besides; rows of no named group count in the whole only.
    """

    def __init__(self, properties: Mapping[str, Property], groups: Groups | None = None) -> None:
        self.properties = dict(properties)
        self.groups = {kind: dict(names) for kind, names in (groups or {}).items()}
        size = 2 + sum(map(len, self.groups.values()))  # first the whole, last what is in no group
        self._sums = {
            name: torch.zeros(size, len(columns(prop)), dtype=torch.float64)
            for name, prop in self.properties.items()
        }
        self._codes = {kind: torch.tensor(sorted(names.values())) for kind, names in self.groups.items()}

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Count a batch in."""
        for name, prop in self.properties.items():
            if name in batch:
                sums = row_sums(prop, predictions[name].detach(), batch)
                self._add(prop, torch.stack([sums[column] for column in columns(prop)], dim=1), batch)

    def _add(self, prop: Property, rows: Float64[Tensor, "rows sums"], batch: Batch) -> None:
        table = self._sums[prop.name] = self._sums[prop.name].to(rows.device)
        table[0] += rows.sum(0)
        first = 1
        for kind, codes in self._codes.items():
            values = _group_of_rows(kind, prop, batch)
            if values is not None and len(codes):
                codes = self._codes[kind] = codes.to(rows.device)
                place = torch.searchsorted(codes, values).clamp_max(len(codes) - 1)
                table.index_add_(0, torch.where(codes[place] == values, first + place, len(table) - 1), rows)
            first += len(codes)

    def compute(self) -> dict[str, Metric]:
        """Errors by ``<property>/<kind>`` and, of groups, ``<property>/<kind>/element=C``.

        What has no label is left out; so is a kind of group that has labels in one of its groups only.
        """
        found: dict[str, Metric] = {}
        for name, prop in self.properties.items():
            table = self._sums[name]
            table = (sum_over_ranks(table) if ranks() > 1 else table).cpu()
            for group, row in self._labelled(prop, table).items():
                found |= _metrics(prop, dict(zip(columns(prop), table[row], strict=True)), group)
        return found

    def _labelled(self, prop: Property, table: Float64[Tensor, "groups sums"]) -> dict[str, int]:
        """Rows of the table that are told, by what is put behind the name of the error."""
        labels = table[:, 0].tolist()
        told = {"": 0} if labels[0] else {}
        first = 1
        for kind, names in self.groups.items():
            places = {code: first + i for i, code in enumerate(sorted(names.values()))}
            rows = {f"/{kind}={name}": places[code] for name, code in names.items()}
            rows = {group: row for group, row in rows.items() if labels[row]}
            told |= rows if len(rows) > 1 else {}
            first += len(names)
        return told


def groups_of(config_types: Iterable[str] = (), datasets: Iterable[str] = ()) -> Groups:
    """Errors told apart by element, config type and dataset, for :class:`Metrics`."""
    return {
        "element": ELEMENTS,
        "config_type": {name: group_code(name) for name in config_types},
        "dataset": {name: group_code(name) for name in datasets},
    }


def table_columns(metrics: Mapping[str, Metric], split: str) -> dict[str, float]:
    """Errors by the names that tables, logs and files have for them.

    Example:
        >>> table_columns({"forces/mae_component": Metric(1.5, "meV/Å", 30)}, "test")
        {'test/forces/mae_component [meV/Å]': 1.5}
    """
    return {metric.column(f"{split}/{key}"): metric.value for key, metric in metrics.items()}


def row_sums(prop: Property, predictions: Tensor, batch: Batch) -> dict[str, Float64[Tensor, "rows"]]:
    """What each row of a property adds to the sums its errors are made of; zeros for missing labels."""
    label = compared(prop, batch[prop.name], batch)
    known = ~label.isnan()
    # `where`, because a missing label times zero is still NaN
    error = torch.where(known, compared(prop, on_branch(prop, predictions, batch), batch) - label, 0.0)
    return _sums_of_vectors(error, known) if prop.shape else _sums_of_numbers(prop, error, known, batch)


def _sums_of_numbers(prop: Property, error: Tensor, known: Tensor, batch: Batch) -> dict[str, Tensor]:
    sums = {"labels": known.double(), "error": error, "absolute": error.abs(), "square": error.square()}
    if compared_per_atom(prop):
        total = error * atom_counts(batch)
        sums |= {"absolute_total": total.abs(), "square_total": total.square()}
    return sums


def _sums_of_vectors(error: Tensor, known: Tensor) -> dict[str, Tensor]:
    error, known = flat_rows(error), flat_rows(known)
    whole = known.all(1)
    square = error.square().sum(1)
    whole_square = torch.where(whole, square, 0.0)
    return {
        "labels": known.sum(1).double(),
        "absolute": error.abs().sum(1),
        "square": square,
        "rows": whole.double(),
        "length": whole_square.sqrt(),
        "square_length": whole_square,
    }


def _group_of_rows(kind: str, prop: Property, batch: Batch) -> Int64[Tensor, "rows"] | None:
    """Code of the group each row belongs to; ``None`` if rows of this property have no such group."""
    if kind == "element":
        return batch["numbers"] if prop.rows == "atom" else None
    if kind not in batch or prop.rows == "structure":
        return batch.get(kind)
    return batch[kind][structure_of_row(batch, prop.rows, len(batch[prop.name]))]


def _metrics(prop: Property, sums: Sums, group: str) -> dict[str, Metric]:
    factor, unit = displayed_unit(prop)
    found = {}
    for name, kind in kinds(prop).items():
        if labels := int(sums[kind.counts]):
            told = unit.removesuffix("/atom") if name in TOTALS else unit
            found[f"{prop.name}/{name}{group}"] = Metric(factor * float(kind.value(sums)), told, labels)
    return found


class MeanPredictor:
    """Knows nothing but the mean of the training labels: what any model must beat.

    Args:
        properties: what is predicted, by name.
        means: mean label of each property, component by component, per atom for energies and virials.
    """

    def __init__(self, properties: Mapping[str, Property], means: Mapping[str, Tensor]) -> None:
        self.properties = {name: prop for name, prop in properties.items() if name in means}
        self.means = {name: means[name] for name in self.properties}

    @classmethod
    def fit(cls, properties: Mapping[str, Property], chunks: Iterable[Batch]) -> MeanPredictor:
        """The means over all structures of a set, read some at a time; what has no label has no mean."""
        sums: dict[str, tuple[Tensor, Tensor]] = {}
        for chunk in chunks:
            for name, prop in properties.items():
                if name in chunk:
                    values = compared(prop, chunk[name], chunk)
                    total, count = sums.get(name, (0.0, 0))
                    sums[name] = total + values.nansum(0), count + (~values.isnan()).sum(0)
        means = {name: total / count for name, (total, count) in sums.items()}
        return cls(properties, {name: mean for name, mean in means.items() if not mean.isnan().any()})

    def __call__(self, batch: Batch) -> Predictions:
        """The means, for each row of a batch."""
        return {name: self._prediction(name, batch) for name in self.means if name in batch}

    def _prediction(self, name: str, batch: Batch) -> Tensor:
        mean = self.means[name].to(batch[name].device).expand(batch[name].shape)
        if not compared_per_atom(self.properties[name]):
            return mean
        return mean * spread_rows(atom_counts(batch), mean.dim() - 1)

"""How far predictions of single structures are from their labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from ase.symbols import Symbols
from jaxtyping import Bool, Float64
from torch import Tensor

from pesloss.losses.batch import (
    Batch,
    Predictions,
    atom_counts,
    num_structures,
    over_entries,
    structure_of_row,
    sum_over_atoms,
)
from pesloss.losses.properties import Property
from pesloss.training.metrics import compared, displayed_unit, on_branch, row_sums

Known = tuple[Float64[Tensor, "structures"], Bool[Tensor, "structures"]]
"""A number of each structure, and whether there is a label that tells it."""


def structure_errors(prop: Property, predictions: Tensor, batch: Batch) -> dict[str, Known]:
    """Errors of each structure in the displayed unit, by what they are; the last tells most.

    Of one number a structure its error, of vectors and tensors the root mean square over components, and of
    atoms the largest error as well.
    """
    factor, unit = displayed_unit(prop)
    rows = row_sums(prop, predictions, batch)
    if prop.rows == "structure" and not prop.shape:
        return {f"{prop.name}/error [{unit}]": (factor * rows["error"], rows["labels"] > 0)}
    num, owner = num_structures(batch), structure_of_row(batch, prop.rows, len(rows["labels"]))
    size, count = ("length", "rows") if prop.shape else ("absolute", "labels")
    sums = {name: sum_over_atoms(rows[name], owner, num) for name in ("square", "labels", count)}
    ends = ("_component", "_vector") if prop.shape else ("", "")
    rmse = factor * (sums["square"] / sums["labels"]).sqrt()
    found = {f"{prop.name}/rmse{ends[0]} [{unit}]": (rmse, sums["labels"] > 0)}
    if prop.rows == "atom":
        largest = factor * rows[size].new_zeros(num).scatter_reduce(0, owner, rows[size], "amax")
        found[f"{prop.name}/max{ends[1]} [{unit}]"] = (largest, sums[count] > 0)
    return found


def labelled_pairs(
    prop: Property, batch: Batch, predictions: Predictions, rows: Bool[Tensor, "rows"] | None = None
) -> Float64[Tensor, "2 labelled"]:
    """Labels and predictions of the labelled components, of some rows, in the displayed unit, on the host."""
    factor, _ = displayed_unit(prop)
    label = compared(prop, batch[prop.name], batch)
    predicted = compared(prop, on_branch(prop, predictions[prop.name], batch), batch)
    known = ~label.isnan()
    if rows is not None:
        known = known & over_entries(rows, label.dim() - 1)
    return factor * torch.stack([label[known], predicted[known]]).cpu()


def identities(
    batch: Batch,
    source: Callable[[int], str],
    names: Mapping[int, str],
    structures: Sequence[int] | None = None,
) -> dict[str, list[str]]:
    """What structures are and where they come from.

    Args:
        batch: the structures.
        source: from a structure's ``index`` to its file and place there.
        names: of config types and datasets, by code.
        structures: which of the batch; all of them by default.
    """
    chosen = range(num_structures(batch)) if structures is None else structures
    counts = atom_counts(batch).tolist()
    numbers = batch["numbers"].cpu().split(counts)
    codes = {key: batch[key].tolist() for key in ("index", "dataset", "config_type")}
    return {
        "source": [source(codes["index"][i]) for i in chosen],
        "dataset": [names.get(codes["dataset"][i], "") for i in chosen],
        "config_type": [names.get(codes["config_type"][i], "") for i in chosen],
        "formula": [Symbols(numbers[i].numpy()).get_chemical_formula() for i in chosen],
        "atoms": [str(counts[i]) for i in chosen],
    }


def text(value: float, known: bool) -> str:
    """A number as text, nothing where nothing is known; a prediction that is NaN shows as such."""
    return f"{value:.12g}" if known else ""


def texts(columns: Mapping[str, Known]) -> dict[str, list[str]]:
    """Columns of a table as text."""
    return {
        name: [text(*pair) for pair in zip(values.tolist(), known.tolist(), strict=True)]
        for name, (values, known) in columns.items()
    }

"""Predictions of single structures as files: extxyz for programs that read atoms, CSV for tables."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io.extxyz import write_xyz
from ase.stress import full_3x3_to_voigt_6_stress
from ase.symbols import Symbols
from torch import Tensor

from pesloss.data.references import References
from pesloss.losses.batch import (
    Batch,
    Predictions,
    atom_counts,
    group_code,
    num_structures,
    sum_over_atoms,
)
from pesloss.losses.properties import Property
from pesloss.training.metrics import displayed_unit, row_sums

Texts = dict[str, list[str]]

PREFIX = "pesloss_"
"""Stands before the name of a property in extxyz files, where the label has the name alone."""


class PredictionFiles:
    """Writes structures with labels and predictions as they come, so that memory does not grow with them.

    ``predictions_<split>.extxyz`` holds the structures with their labels where ASE looks for them and the
    predictions beside them as ``pesloss_energy``, ``pesloss_forces`` ...; energies are total ones, references
    included. ``predictions_<split>.csv`` has a row a structure, with errors in the units of the metrics.

    Args:
        folder: where the files go.
        split: name of the structures.
        properties: what was predicted, by name.
        references: what the energies that are predicted lack, on the host.
        source: from a structure's ``index`` to its file and place there.
        groups: names of config types and datasets.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        properties: Mapping[str, Property],
        references: References,
        source: Callable[[int], str],
        groups: Collection[str] = (),
    ) -> None:
        self._path = folder / f"predictions_{split}"
        # matrices of pairs of atoms would make these files as large as all the rest together
        self._properties = {name: prop for name, prop in properties.items() if prop.rows != "pair"}
        self._references, self._source = references, source
        self._names = {group_code(name): name for name in groups}

    def __enter__(self) -> PredictionFiles:
        self._atoms = self._path.with_suffix(".extxyz").open("w", encoding="utf-8")
        self._table = self._path.with_suffix(".csv").open("w", newline="", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._atoms.close()
        self._table.close()

    def write(self, batch: Batch, predictions: Predictions) -> None:
        """Append the structures of a batch, whose energies are total ones."""
        found = {name: predictions[name].cpu().double() for name in self._properties}
        if "energy" in found:
            reference = self._references(batch["numbers"], batch["batch"], num_structures(batch))
            found["energy"] = found["energy"] + reference
        batch = {**{name: torch.full_like(value, torch.nan) for name, value in found.items()}, **batch}
        about = self._about(batch)
        columns = dict(about)
        for prop in self._properties.values():
            columns |= _columns(prop, found[prop.name], batch)
        table = csv.writer(self._table)
        if not self._table.tell():
            table.writerow(columns)
        table.writerows(zip(*columns.values(), strict=True))
        write_xyz(self._atoms, list(self._structures(about, batch, found)))

    def _about(self, batch: Batch) -> Texts:
        counts = atom_counts(batch).tolist()
        numbers = batch["numbers"].split(counts)
        return {
            "source": [self._source(index) for index in batch["index"].tolist()],
            "dataset": [self._names.get(code, "") for code in batch["dataset"].tolist()],
            "config_type": [self._names.get(code, "") for code in batch["config_type"].tolist()],
            "formula": [Symbols(z.numpy()).get_chemical_formula() for z in numbers],
            "atoms": [str(count) for count in counts],
        }

    def _structures(self, about: Texts, batch: Batch, found: Predictions) -> Iterator[Atoms]:
        ptr = batch["ptr"].tolist()
        for row, (start, end) in enumerate(pairwise(ptr)):
            atoms = Atoms(
                batch["numbers"][start:end].numpy(),
                batch["positions"][start:end].numpy(),
                cell=batch["cell"][row].numpy(),
                pbc=batch["pbc"][row].numpy(),
                info={name: about[name][row] for name in ("source", "dataset", "config_type")},
            )
            fixed = batch["fixed"][start:end].numpy()
            atoms.set_constraint(FixAtoms(mask=fixed) if fixed.any() else None)
            results = {}
            for name, prop in self._properties.items():
                rows = slice(start, end) if prop.rows == "atom" else row
                results |= _labelled(atoms, prop, batch[name][rows].numpy())
                _attach(atoms, prop, f"{PREFIX}{name}", found[name][rows].numpy())
            atoms.calc = SinglePointCalculator(atoms, **results)
            yield atoms


def _labelled(atoms: Atoms, prop: Property, label: np.ndarray) -> dict[str, np.ndarray]:
    """A label as a calculator's result if ASE knows the property, else attached; nothing if it is missing."""
    if np.isnan(label).all():
        return {}
    if prop.name in all_properties:
        return {prop.name: full_3x3_to_voigt_6_stress(label) if prop.name == "stress" else label}
    _attach(atoms, prop, prop.name, label)
    return {}


def _attach(atoms: Atoms, prop: Property, key: str, value: np.ndarray) -> None:
    if prop.rows == "atom":
        # a colon would end the name of a column
        atoms.set_array(key.replace(":", "_"), value.reshape(len(atoms), -1) if prop.shape else value)
    else:
        atoms.info[key] = value if prop.shape else float(value)


def _columns(prop: Property, predictions: Tensor, batch: Batch) -> Texts:
    """Errors of each structure in the displayed unit; empty where there is no label."""
    factor, unit = displayed_unit(prop)
    rows = row_sums(prop, predictions, batch)
    known = rows["labels"] > 0
    if prop.rows == "atom":
        return _columns_of_atoms(prop, rows, batch)
    if prop.shape:
        rmse = (rows["square"] / rows["labels"]).sqrt()
        return {f"{prop.name}/rmse_component [{unit}]": _texts(factor * rmse, known)}
    return {
        f"{prop.name}/label [{prop.unit}]": _texts(batch[prop.name], known),
        f"{prop.name}/prediction [{prop.unit}]": _texts(predictions, torch.ones_like(known)),
        f"{prop.name}/error [{unit}]": _texts(factor * rows["error"], known),
    }


def _columns_of_atoms(prop: Property, rows: Mapping[str, Tensor], batch: Batch) -> Texts:
    """Root mean square and largest error of each structure's atoms."""
    factor, unit = displayed_unit(prop)
    num, owner = num_structures(batch), batch["batch"]
    size, count = ("length", "rows") if prop.shape else ("absolute", "labels")
    largest = rows[size].new_zeros(num).scatter_reduce(0, owner, rows[size], "amax")
    sums = {name: sum_over_atoms(rows[name], owner, num) for name in ("square", "labels", count)}
    rmse = (sums["square"] / sums["labels"]).sqrt()
    ends = ("_component", "_vector") if prop.shape else ("", "")
    return {
        f"{prop.name}/rmse{ends[0]} [{unit}]": _texts(factor * rmse, sums["labels"] > 0),
        f"{prop.name}/max{ends[1]} [{unit}]": _texts(factor * largest, sums[count] > 0),
    }


def _texts(values: Tensor, known: Tensor) -> list[str]:
    """Numbers as text, nothing where nothing is known; a prediction that is NaN shows as such."""
    pairs = zip(values.tolist(), known.tolist(), strict=True)
    return [f"{value:.12g}" if is_known else "" for value, is_known in pairs]

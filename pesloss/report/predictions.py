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
from torch import Tensor

from pesloss.data.references import References
from pesloss.losses.batch import Batch, Predictions, group_code, num_structures
from pesloss.losses.properties import Property
from pesloss.report.structures import identities, structure_errors, texts

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
        about = identities(batch, self._source, self._names)
        columns = dict(about)
        for prop in self._properties.values():
            columns |= _columns(prop, found[prop.name], batch)
        table = csv.writer(self._table)
        if not self._table.tell():
            table.writerow(columns)
        table.writerows(zip(*columns.values(), strict=True))
        write_xyz(self._atoms, list(self._structures(about, batch, found)))

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
    """Errors of each structure in the displayed unit, of numbers themselves too; empty without a label."""
    errors = structure_errors(prop, predictions, batch)
    if prop.rows != "structure" or prop.shape:
        return texts(errors)
    known = ~batch[prop.name].isnan()
    label = {f"{prop.name}/label [{prop.unit}]": (batch[prop.name], known)}
    prediction = {f"{prop.name}/prediction [{prop.unit}]": (predictions, torch.ones_like(known))}
    return texts({**label, **prediction, **errors})

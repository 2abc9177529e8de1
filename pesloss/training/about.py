"""What a checkpoint tells of its training in words and numbers: to read it, nothing has to be built."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pesloss import checkpoint
from pesloss.data import LoadedData, Packed
from pesloss.losses import TotalLoss
from pesloss.losses.batch import flat_rows
from pesloss.losses.formulas import formulas, remarks


def of_data(data: LoadedData, labels: Collection[str]) -> dict[str, Any]:
    """Which files there were, and how much of each part of them was labelled."""
    return {
        "files": [
            {
                "file": file.file,
                "dataset": file.dataset,
                "structures": file.num_structures,
                "changes": dict(file.changes),
            }
            for file in data.report.files
        ],
        "splits": {name: _of_part(part, labels) for name, part in data.parts.items()},
        "reference_energies": data.references.note,
    }


def of_loss(loss: TotalLoss) -> dict[str, Any]:
    """The formula of a loss, with its weights as they stand."""
    return {
        "class": type(loss).__name__,
        "weighting": type(loss.weighting).__name__,
        "terms": [term._asdict() for term in formulas(loss)],
        "remarks": [*remarks(loss), *getattr(loss, "remarks", ())],
    }


def conclude(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Put the errors of the final evaluation into the best checkpoint, which may leave its folder.

    Args:
        folder: of the run.
        metrics: what ``metrics.json`` holds.
    """
    path = folder / checkpoint.BEST
    if path.exists():
        final = {name: metrics[name] for name in ("metrics", "baseline", "labels", "ended")}
        checkpoint.save(path, {**checkpoint.read(path), "final": final})


def _of_part(part: Packed, labels: Collection[str]) -> dict[str, Any]:
    found = [name for name in labels if name in part.labelled]
    rows = dict.fromkeys(found, 0)
    for chunk in part.chunks(found):
        for name in found:
            rows[name] += _labelled(chunk[name])
    return {"structures": len(part), "atoms": int(part.num_atoms.sum()), "labels": rows}


def _labelled(label: Tensor) -> int:
    """Number of rows with a label, or some components of one."""
    return int(flat_rows(~torch.isnan(label)).any(dim=1).sum()) if label.is_floating_point() else len(label)

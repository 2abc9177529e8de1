"""Whether a batch is what losses take it for: they do not look, since looking waits for the device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pesloss.losses.batch import Batch
from pesloss.losses.elements import NUMBERS
from pesloss.losses.properties import PROPERTIES

OF_STRUCTURES = ("weight", "config_type", "dataset", "index", "cell", "pbc")
OF_ATOMS = ("batch", "numbers", "positions", "fixed", "atom_weight")
WHOLE = ("ptr", "batch", "numbers", "config_type", "dataset", "index")


@torch.no_grad()
def check_batch(batch: Batch) -> None:
    """A batch whose offsets, weights or labels are wrong trains without complaint on the wrong loss.

    Losses check shapes of labels, predictions and weights in every call, but never values: that would make
    the host wait. Whoever packs batches by code of their own has the first of them checked here.

    Args:
        batch: structures one after another along the atom axis.

    Raises:
        KeyError: if there is no ``ptr``.
        ValueError: if an entry has another number of rows than there are structures or atoms, if ``ptr``
            does not rise from 0, if ``batch`` says something else, if an atomic number is none, if a weight
            is negative or not finite, or if a label is infinite.
        TypeError: if an entry of whole numbers holds others.
    """
    if "ptr" not in batch:
        raise KeyError(
            f"A batch needs 'ptr' [structures + 1], the offsets of its atoms; found {sorted(batch)}."
        )
    for key in WHOLE:
        if key in batch and (batch[key].is_floating_point() or batch[key].dtype == torch.bool):
            raise TypeError(f"'{key}' must hold whole numbers, found {batch[key].dtype}.")
    _check_offsets(batch["ptr"])
    for key, rows, what in _rows(batch):
        if key in batch and (batch[key].dim() == 0 or batch[key].shape[0] != rows):
            raise ValueError(
                f"'{key}' has shape {tuple(batch[key].shape)}, expected {rows} {what}, as ptr says."
            )
    _check_atoms(batch)
    for key, values in batch.items():
        if key.endswith("weight") and not bool((values.isfinite() & (values >= 0)).all()):
            raise ValueError(f"'{key}' must be finite and not negative, got {_first_bad(values)}.")
        if key in PROPERTIES and bool(values.isinf().any()):
            raise ValueError(f"'{key}' holds an infinite label; a missing one is NaN or absent.")


def _check_offsets(ptr: Tensor) -> None:
    if ptr.dim() != 1 or not len(ptr) or int(ptr[0]) != 0 or bool((ptr.diff() < 0).any()):
        raise ValueError(f"ptr must rise from 0 to the number of atoms, got {ptr.tolist()}.")


def _rows(batch: Batch) -> Iterator[tuple[str, int, str]]:
    """Entries with the number of rows that they must have."""
    num = {"structure": len(batch["ptr"]) - 1, "atom": int(batch["ptr"][-1])}
    num["pair"] = int(batch["ptr"].diff().square().sum())
    yield from ((key, num["structure"], "structures") for key in OF_STRUCTURES)
    yield from ((key, num["atom"], "atoms") for key in OF_ATOMS)
    yield from ((name, num[prop.rows], f"{prop.rows}s") for name, prop in PROPERTIES.items())


def _check_atoms(batch: Batch) -> None:
    counts = batch["ptr"].diff()
    owner = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    if "batch" in batch and not torch.equal(batch["batch"].long(), owner):
        raise ValueError("'batch' gives atoms to other structures than ptr does.")
    if "numbers" in batch and bool(((batch["numbers"] < 0) | (batch["numbers"] >= NUMBERS)).any()):
        found = batch["numbers"][(batch["numbers"] < 0) | (batch["numbers"] >= NUMBERS)]
        raise ValueError(f"'numbers' must be atomic numbers below {NUMBERS}, got {int(found[0])}.")


def _first_bad(weights: Tensor) -> float:
    return float(weights[~(weights.isfinite() & (weights >= 0))][0])

"""What a batch is: structures one after another along the atom axis, ``ptr`` their offsets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeAlias

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

Batch: TypeAlias = Mapping[str, Tensor]
Predictions: TypeAlias = Mapping[str, Tensor]
Channels: TypeAlias = Float[Tensor, "channels"]


def group_code(name: str) -> int:
    """Integer that stands for the name of a group of structures (a config type, a dataset) in a batch.

    A stable hash, so that a loss and a dataset agree on it without sharing a table of names.

    Example:
        >>> group_code("surface") == group_code("surface") != group_code("bulk")
        True
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")


def num_structures(batch: Batch) -> int:
    """Number of structures of a batch, known from the shape of ``ptr``."""
    return batch["ptr"].shape[0] - 1


def num_atoms(batch: Batch) -> int:
    """Number of atoms of a batch, known from the shape of an entry with one row an atom.

    A batch that has none of them answers from ``ptr``, and waits for the device to do so.
    """
    for key in ("batch", "numbers", "positions", "forces", "charges", "atom_weight"):
        if key in batch:
            return batch[key].shape[0]
    return int(batch["ptr"][-1])


def atom_counts(batch: Batch) -> Int[Tensor, "structures"]:
    """Number of atoms of each structure."""
    return batch["ptr"].diff()


def structure_of_atom(batch: Batch, num_atoms: int) -> Int[Tensor, "atoms"]:
    """Index of the structure each atom belongs to: the batch's own ``batch`` entry, or found from ``ptr``."""
    if "batch" in batch:
        return batch["batch"]
    atoms = torch.arange(num_atoms, device=batch["ptr"].device)
    # a search, because repeat_interleave would wait for the device to learn its output size
    return torch.searchsorted(batch["ptr"], atoms, right=True) - 1


def num_rows(batch: Batch, rows: str) -> int:
    """Number of structures, atoms, or ordered pairs of atoms of a structure.

    Pairs are known from no shape: the host waits for the device to count them.
    """
    if rows == "structure":
        return num_structures(batch)
    return num_atoms(batch) if rows == "atom" else int(atom_counts(batch).square().sum())


def structure_of_row(batch: Batch, rows: str, num: int) -> Int[Tensor, "rows"]:
    """Index of the structure that each of so many rows belongs to."""
    if rows == "structure":
        return torch.arange(num, device=batch["ptr"].device)
    if rows == "atom":
        return structure_of_atom(batch, num)
    ends = atom_counts(batch).square().cumsum(0)
    return torch.searchsorted(ends, torch.arange(num, device=ends.device), right=True)


def predicted(predictions: Predictions, name: str) -> Tensor:
    """A prediction by its name, in at least single precision.

    Raises:
        KeyError: if there is none.
    """
    if name not in predictions:
        raise KeyError(f"No '{name}' in predictions; found {sorted(predictions)}.")
    values = predictions[name]
    return values.to(torch.promote_types(values.dtype, torch.float32))


def flat_rows(values: Shaped[Tensor, "rows *entry"]) -> Shaped[Tensor, "rows entries"]:
    """Entries of each row side by side, also where there are no rows."""
    return values[:, None] if values.dim() == 1 else values.flatten(1)


def spread_rows(values: Shaped[Tensor, "rows"], dims: int) -> Tensor:
    """One value a row, shaped to broadcast over entries of so many dimensions."""
    return values.reshape(-1, *[1] * dims) if dims else values


def over_entries(rows: Tensor, dims: int) -> Tensor:
    """Rows shaped to broadcast over entries of so many dimensions; what has as many already stays."""
    return rows if rows.dim() == 1 + dims else spread_rows(rows, dims)


def single_structures(values: Mapping[str, Tensor], batch: Batch) -> list[dict[str, Tensor]]:
    """Entries of a batch, or what is predicted for it, cut into those of each structure.

    What has one row a structure, atom or pair is known by the number of its rows; what has another number is
    handed to all. The host waits for the device to learn where structures begin.
    """
    counts, whole = atom_counts(batch), {**values}
    sizes = ([1] * len(counts), counts.tolist(), counts.square().tolist())
    by_number = {sum(of_rows): of_rows for of_rows in sizes}
    cut = {
        key: value.split(by_number[len(value)])
        for key, value in whole.items()
        if value.dim() and len(value) in by_number and not key.startswith(("ptr", "batch", "edge_"))
    }
    made = []
    for structure, (first, size) in enumerate(zip(batch["ptr"].tolist(), sizes[1], strict=False)):
        own = {key: parts[structure] for key, parts in cut.items()}
        made.append({**whole, **own, **_of_one(whole, first, size)})
    return made


def _of_one(values: Mapping[str, Tensor], first: int, size: int) -> dict[str, Tensor]:
    """What says where atoms are, for a batch of one structure alone."""
    made = {key: values[key] for key in ("ptr", "batch", "edge_index") if key in values}
    if "ptr" in made:
        made["ptr"] = made["ptr"].new_tensor([0, size])
    if "batch" in made:
        made["batch"] = made["batch"].new_zeros(size)
    if "edge_index" in made:
        atoms = made["edge_index"] - first
        own = (atoms[0] >= 0) & (atoms[0] < size)
        made |= {key: values[key][own] for key in values if key.startswith("edge_") and key not in made}
        made["edge_index"] = atoms[:, own]
    return made


def sum_over_atoms(
    values: Shaped[Tensor, "atoms *entry"], structure: Int[Tensor, "atoms"], num_structures: int
) -> Shaped[Tensor, "structures *entry"]:
    """Sum of the atoms' values in each structure."""
    return values.new_zeros(num_structures, *values.shape[1:]).index_add(0, structure, values)

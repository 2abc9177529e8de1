"""Structures in flat tensors, packed once, so that a batch is a few gathers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float64, Int32, Int64
from torch import Tensor

from pesloss.data.neighbors import Neighbors
from pesloss.data.references import References
from pesloss.data.structures import Structure
from pesloss.losses.batch import group_code
from pesloss.losses.properties import Property, Rows

Columns: TypeAlias = Mapping[str, Tensor]

RESERVED = frozenset(
    {
        *("ptr", "batch", "numbers", "positions", "cell", "pbc", "edge_index", "edge_shift"),
        *("weight", "atom_weight", "fixed", "dataset", "config_type", "index"),
    }
)
"""Names in a batch that no property can have."""


@dataclass(frozen=True)
class Packed:
    """Labelled structures one after another along the atom axis and the edge axis.

    Args:
        structures: name -> ``[structures, ...]``.
        atoms: name -> ``[atoms, ...]``.
        edge_index: centre and neighbour of each edge, counted within the structure.
        edge_shift: whole cell vectors of each edge.
        atom_ptr: first atom of each structure and the end, on the host.
        edge_ptr: first edge of each structure and the end, on the host.
    """

    structures: Columns
    atoms: Columns
    edge_index: Tensor
    edge_shift: Tensor
    atom_ptr: Int64[Tensor, "offsets"]
    edge_ptr: Int64[Tensor, "offsets"]

    def __len__(self) -> int:
        return len(self.atom_ptr) - 1

    def batch(self, indices: Tensor | Sequence[int]) -> dict[str, Tensor]:
        """The batch of some structures, in the order asked for.

        Args:
            indices: positions in this set, on the host; none gives a batch of no structures.

        Raises:
            IndexError: if an index is not one of this set.
        """
        indices = self._checked(torch.as_tensor(indices, dtype=torch.int64, device="cpu"))
        device, dtype = self.atoms["positions"].device, self.atoms["positions"].dtype
        atoms, owner, ptr = _gather(self.atom_ptr, indices, device)
        edges, edge_owner, _ = _gather(self.edge_ptr, indices, device)
        rows = indices.to(device, non_blocking=True)
        return {
            "ptr": ptr,
            "batch": owner,
            **{name: column.index_select(0, rows) for name, column in self.structures.items()},
            **{name: column.index_select(0, atoms) for name, column in self.atoms.items()},
            "edge_index": self.edge_index.index_select(1, edges) + ptr[edge_owner],
            "edge_shift": self.edge_shift.index_select(0, edges).to(dtype),
        }

    def labels(self) -> dict[str, Tensor]:
        """All structures as one batch without edges, nothing copied: for statistics of the labels."""
        return {"ptr": self.atom_ptr.to(self.atoms["positions"].device), **self.structures, **self.atoms}

    def chunks(self) -> Iterator[dict[str, Tensor]]:
        """The labels of all structures, some structures at a time, without edges: for statistics."""
        yield self.labels()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Packed:
        """The same on a device, where batches are then made."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Packed:
        """The same in page-locked memory."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Packed:
        return replace(
            self,
            structures={name: function(column) for name, column in self.structures.items()},
            atoms={name: function(column) for name, column in self.atoms.items()},
            edge_index=function(self.edge_index),
            edge_shift=function(self.edge_shift),
        )

    def _checked(self, indices: Int64[Tensor, "chosen"]) -> Int64[Tensor, "chosen"]:
        outside = indices[(indices < 0) | (indices >= len(self))]
        if len(outside):
            raise IndexError(
                f"Structure {int(outside[0])} asked for, but the set has {len(self)}, counted from 0."
            )
        return indices


def pack(
    structures: Sequence[Structure],
    properties: Mapping[str, Property],
    cutoff: float,
    *,
    references: References | None = None,
    dtype: torch.dtype = torch.float64,
    index: Sequence[int] | None = None,
) -> Packed:
    """Labelled structures with their neighbour lists in flat tensors.

    Energies lose their reference in float64, before the cast.

    Args:
        structures: what to pack; may be none.
        properties: labels to keep, by name; one that no structure has is left out.
        cutoff: of the neighbour lists, in Å.
        references: reference energies of the elements; none by default.
        dtype: of every floating tensor.
        index: row of each structure in the whole set, by default its position here.

    Raises:
        ValueError: if an element has no reference, the cutoff is not positive, or a property's name means
            something else in a batch.
        TypeError: if ``dtype`` is not floating.
    """
    _check(properties, dtype)
    atom_ptr = _offsets([s.num_atoms for s in structures])
    edge_index, edge_shift, edge_ptr = _edges(structures, Neighbors(cutoff))
    by_structure = _structure_columns(structures, range(len(structures)) if index is None else index)
    by_structure |= _labels(structures, properties, "structure") | _weights(
        structures, properties, "structure"
    )
    by_atom = _atom_columns(structures)
    by_atom |= _labels(structures, properties, "atom") | _weights(structures, properties, "atom")
    if references is not None and "energy" in by_structure:
        by_structure["energy"] = by_structure["energy"] - _reference(references, by_atom["numbers"], atom_ptr)
    return Packed(
        _tensors(by_structure, dtype), _tensors(by_atom, dtype), edge_index, edge_shift, atom_ptr, edge_ptr
    )


def _check(properties: Mapping[str, Property], dtype: torch.dtype) -> None:
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating one, such as torch.float32, got {dtype}.")
    if taken := RESERVED & set(properties):
        names = ", ".join(sorted(taken))
        raise ValueError(f"A property cannot be called {names}: that is something else in a batch.")


def _offsets(counts: Sequence[int]) -> Int64[Tensor, "offsets"]:
    return torch.tensor([0, *counts], dtype=torch.int64).cumsum(0)


def _edges(
    structures: Sequence[Structure], neighbors: Neighbors
) -> tuple[Int32[Tensor, "2 edges"], Int32[Tensor, "edges 3"], Int64[Tensor, "offsets"]]:
    found = [neighbors(s.positions, s.cell, s.pbc) for s in structures]
    index = np.concatenate([np.empty((2, 0), np.int32), *(pairs for pairs, _ in found)], axis=1)
    shift = np.concatenate([np.empty((0, 3), np.int32), *(shift for _, shift in found)])
    return torch.from_numpy(index), torch.from_numpy(shift), _offsets([len(shift) for _, shift in found])


def _structure_columns(structures: Sequence[Structure], index: Sequence[int]) -> dict[str, np.ndarray]:
    return {
        "cell": np.array([s.cell for s in structures], dtype=np.float64).reshape(-1, 3, 3),
        "pbc": np.array([s.pbc for s in structures], dtype=bool).reshape(-1, 3),
        "dataset": np.array([group_code(s.dataset) for s in structures], dtype=np.int64),
        "config_type": np.array([group_code(s.config_type) for s in structures], dtype=np.int64),
        "index": np.array(index, dtype=np.int64),
    }


def _atom_columns(structures: Sequence[Structure]) -> dict[str, np.ndarray]:
    return {
        "numbers": np.concatenate([np.empty(0, np.int64), *(s.numbers for s in structures)]),
        "positions": np.concatenate([np.empty((0, 3)), *(s.positions for s in structures)]),
        "fixed": np.concatenate([np.empty(0, bool), *(s.fixed for s in structures)]),
    }


def _labels(
    structures: Sequence[Structure], properties: Mapping[str, Property], rows: Rows
) -> dict[str, np.ndarray]:
    """Labels by name, NaN where a structure has none; properties that nobody labels are absent."""
    columns = {}
    for name, prop in properties.items():
        if prop.rows == rows and any(
            np.isfinite(s.labels[name]).any() for s in structures if name in s.labels
        ):
            columns[name] = _join(
                structures, rows, tuple(prop.shape), np.nan, [s.labels.get(name) for s in structures]
            )
    return columns


def _weights(
    structures: Sequence[Structure], properties: Mapping[str, Property], rows: Rows
) -> dict[str, np.ndarray]:
    """Weights by name, 1 where a structure has none; those that nobody gives are absent."""
    names = ["weight" if rows == "structure" else "atom_weight"]
    names += [f"{name}_weight" for name, prop in properties.items() if prop.rows == rows]
    columns = {}
    for name in names:
        given = [s.weights.get(name) for s in structures]
        if any(weight is not None for weight in given):
            columns[name] = _join(structures, rows, _entry(given, rows), 1.0, given)
    return columns


def _entry(weights: Iterable[np.ndarray | None], rows: Rows) -> tuple[int, ...]:
    """``(3,)`` if an atom somewhere has one weight for each direction, then all have."""
    return (3,) if rows == "atom" and any(w is not None and w.ndim == 2 for w in weights) else ()


def _join(
    structures: Sequence[Structure],
    rows: Rows,
    shape: tuple[int, ...],
    missing: float,
    values: Sequence[np.ndarray | None],
) -> Float64[np.ndarray, "..."]:
    """Values of all structures in one array, ``missing`` where there is none."""
    counts = [s.num_atoms if rows == "atom" else 1 for s in structures]
    column = np.full((sum(counts), *shape), missing)
    ends = np.cumsum(counts)
    for end, count, value in zip(ends, counts, values, strict=True):
        if value is not None:
            rank = len(shape) + (rows == "atom")
            column[end - count : end] = value.reshape(value.shape + (1,) * (rank - value.ndim))
    return column


def _reference(
    references: References, numbers: Int64[np.ndarray, "atoms"], atom_ptr: Int64[Tensor, "offsets"]
) -> Float64[np.ndarray, "structures"]:
    owner = torch.repeat_interleave(atom_ptr.diff())
    device = references.energies.device
    with torch.no_grad():
        energies = references(torch.from_numpy(numbers).to(device), owner.to(device), len(atom_ptr) - 1)
    return energies.cpu().numpy()


def _tensors(columns: Mapping[str, np.ndarray], dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}


def _gather(
    offsets: Int64[Tensor, "offsets"], chosen: Int64[Tensor, "chosen"], device: torch.device
) -> tuple[Int64[Tensor, "rows"], Int64[Tensor, "rows"], Int64[Tensor, "ends"]]:
    """Rows of the chosen structures, the structure of the batch each belongs to, and the batch's offsets."""
    starts = offsets[chosen]
    counts = offsets[chosen + 1] - starts
    ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    total = int(ptr[-1])  # on the host, so that no device has to be waited for
    counts, skip, ptr = (t.to(device, non_blocking=True) for t in (counts, starts - ptr[:-1], ptr))
    owner = torch.repeat_interleave(counts, output_size=total)
    return torch.arange(total, device=device) + skip[owner], owner, ptr

"""Some structures of a store, in an order, and the batches that are gathered from its columns."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from pesloss.data.storage.store import Arrays, Store

Columns: TypeAlias = dict[str, tuple[np.ndarray, np.dtype]]

FLOATS: Mapping[torch.dtype, type[np.floating]] = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.float16: np.float16,
}
NOT_IN_BATCH = ("file", "row", "group", "num_atoms", "num_edges", "num_neighbors")
CHUNK = 256  # structures


class Packed:
    """Labelled structures of a store, all of them or some; nothing is copied until a batch is made.

    Args:
        store: where they are.
        rows: which structures, in which order; all by default.
        dtype: of every floating tensor of a batch.
        reference: energy that each structure of the store loses, in eV, before the cast; none by default.
        sampling: how often an epoch takes each of the chosen structures, on average; once by default.

    Raises:
        TypeError: if ``dtype`` is not one of floating numbers that NumPy has too.
    """

    def __init__(
        self,
        store: Store,
        rows: Int64[np.ndarray, "structures"] | None = None,
        *,
        dtype: torch.dtype = torch.float64,
        reference: Float64[np.ndarray, "stored"] | None = None,
        sampling: Float64[np.ndarray, "structures"] | None = None,
    ) -> None:
        if dtype not in FLOATS:
            known = ", ".join(map(str, FLOATS))
            raise TypeError(f"dtype must be a floating one ({known}), got {dtype}.")
        self.store, self.dtype, self.reference = store, dtype, reference
        self.rows = np.arange(len(store)) if rows is None else rows
        self.sampling = torch.from_numpy(np.ones(len(self)) if sampling is None else sampling)
        self._structures, self._atoms = self._columns(store.structures), self._columns(store.atoms)
        self._pairs = self._columns(store.pairs)
        if reference is not None and "energy" in self._structures:
            energy, as_dtype = self._structures["energy"]
            self._structures["energy"] = energy - reference, as_dtype

    def __getstate__(self) -> dict[str, Any]:
        # without the columns, which another process maps anew
        names = ("store", "rows", "dtype", "reference")
        return {**{name: getattr(self, name) for name in names}, "sampling": self.sampling.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_atoms(self) -> Int64[Tensor, "structures"]:
        """Number of atoms of each structure."""
        return torch.from_numpy(self.store.structures["num_atoms"][self.rows])

    @property
    def num_edges(self) -> Int64[Tensor, "structures"]:
        """Number of edges of each structure."""
        return torch.from_numpy(self.store.structures["num_edges"][self.rows])

    @property
    def labelled(self) -> tuple[str, ...]:
        """Properties that some structure has a label of."""
        columns = {**self._structures, **self._atoms, **self._pairs}
        return tuple(name for name in self.store.about["labels"] if name in columns)

    def source(self, position: int) -> str:
        """File of a structure and its place there, for messages."""
        return self.store.source(int(self.rows[position]))

    def batch(self, indices: Tensor | Sequence[int]) -> dict[str, Tensor]:
        """The batch of some structures, in the order asked for, on the host.

        Args:
            indices: positions in this set; none gives a batch of no structures.

        Raises:
            IndexError: if an index is not one of this set.
        """
        rows = self.rows[self._checked(np.asarray(indices, dtype=np.int64))]
        atoms, owner, ptr = _gather(self.store.atom_ptr, rows)
        edges, edge_owner, _ = _gather(self.store.edge_ptr, rows)
        num_neighbors = self.store.atoms["num_neighbors"].take(atoms)
        edge_index = np.empty((2, len(edges)), np.int64)
        edge_index[0] = np.repeat(np.arange(len(atoms)), num_neighbors)
        np.add(self.store.edges["neighbor"].take(edges), ptr[edge_owner], out=edge_index[1])
        # four bytes that are gathered as one word
        shift = self.store.edges["shift"].view(np.int32)[:, 0].take(edges).view(np.int8).reshape(-1, 4)
        return _tensors(
            {
                "ptr": ptr,
                "batch": owner,
                "index": rows,
                **_gathered(self._structures, rows),
                **_gathered(self._atoms, atoms),
                **self._of_pairs(rows),
                "edge_index": edge_index,
                "edge_shift": shift[:, :3].astype(FLOATS[self.dtype]),
            }
        )

    def chunks(self, names: Collection[str] | None = None) -> Iterator[dict[str, Tensor]]:
        """The labels of all structures, some hundred structures at a time, without edges: for statistics.

        Args:
            names: what is needed besides ``ptr``, ``batch`` and ``index``; everything by default.
        """
        for begin in range(0, len(self), CHUNK):
            rows = self.rows[begin : begin + CHUNK]
            atoms, owner, ptr = _gather(self.store.atom_ptr, rows)
            by_structure = _gathered(_only(self._structures, names), rows)
            by_atom = _gathered(_only(self._atoms, names), atoms)
            by_pair = self._of_pairs(rows, names)
            about = {"ptr": ptr, "batch": owner, "index": rows.copy()}
            yield _tensors({**about, **by_structure, **by_atom, **by_pair})

    def _columns(self, columns: Arrays) -> Columns:
        """What a batch holds of them, and as what; a label that no structure of this set has is left out."""
        labels = self.store.about["labels"]
        casts = {np.dtype(np.float64): np.dtype(FLOATS[self.dtype]), np.dtype(np.uint8): np.dtype(np.int64)}
        return {
            name: (column, casts.get(column.dtype, column.dtype))
            for name, column in columns.items()
            if name not in NOT_IN_BATCH and (name not in labels or self._is_labelled(name, column))
        }

    def _of_pairs(
        self, rows: Int64[np.ndarray, "structures"], names: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        chosen = _only(self._pairs, names)
        return _gathered(chosen, _gather(self.store.pair_ptr, rows)[0]) if chosen else {}

    def _is_labelled(self, name: str, column: np.ndarray) -> bool:
        ptr = np.arange(len(self.store) + 1)
        if name in self.store.atoms or name in self.store.pairs:
            ptr = self.store.atom_ptr if name in self.store.atoms else self.store.pair_ptr
        return any(np.isfinite(column[ptr[row] : ptr[row + 1]]).any() for row in self.rows)

    def _checked(self, indices: Int64[np.ndarray, "chosen"]) -> Int64[np.ndarray, "chosen"]:
        outside = indices[(indices < 0) | (indices >= len(self))]
        if len(outside):
            raise IndexError(
                f"Structure {outside[0]} asked for, but the set has {len(self)}, counted from 0."
            )
        return indices


def _gather(
    offsets: Int64[np.ndarray, "offsets"], chosen: Int64[np.ndarray, "chosen"]
) -> tuple[Int64[np.ndarray, "rows"], Int64[np.ndarray, "rows"], Int64[np.ndarray, "ends"]]:
    """Rows of the chosen structures, the structure of the batch each belongs to, and the batch's offsets."""
    starts = offsets.take(chosen)
    counts = offsets.take(chosen + 1) - starts
    ptr = np.zeros(len(chosen) + 1, np.int64)
    counts.cumsum(out=ptr[1:])
    owner = np.repeat(np.arange(len(chosen)), counts)
    return np.arange(ptr[-1]) + (starts - ptr[:-1]).take(owner), owner, ptr


def _only(columns: Columns, names: Collection[str] | None) -> Columns:
    return columns if names is None else {name: columns[name] for name in columns if name in names}


def _gathered(columns: Columns, rows: Int64[np.ndarray, "rows"]) -> dict[str, np.ndarray]:
    return {n: column.take(rows, axis=0).astype(dtype, copy=False) for n, (column, dtype) in columns.items()}


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}

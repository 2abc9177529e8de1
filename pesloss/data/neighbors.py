"""Which atoms see each other: pairs within a cutoff, periodic images included."""

from __future__ import annotations

import math

import numpy as np
import vesin
from jaxtyping import Bool, Float64, Int32


class Neighbors:
    """Neighbours lie within a cutoff of each other: ``|r_j − r_i + S·cell| ≤ cutoff``, both ways.

    Args:
        cutoff: in Å.

    Raises:
        ValueError: if the cutoff is not positive and finite.
    """

    def __init__(self, cutoff: float) -> None:
        if not (math.isfinite(cutoff) and cutoff > 0):
            raise ValueError(f"cutoff must be a positive length in Å, got {cutoff}.")
        self.cutoff = float(cutoff)
        # one thread, so that the order of the pairs does not depend on the machine
        self._list = vesin.NeighborList(cutoff=self.cutoff, full_list=True, sorted=True, n_threads=1)

    def __call__(
        self,
        positions: Float64[np.ndarray, "atoms 3"],
        cell: Float64[np.ndarray, "3 3"],
        pbc: Bool[np.ndarray, "3"],
    ) -> tuple[Int32[np.ndarray, "2 edges"], Int32[np.ndarray, "edges 3"]]:
        """Pairs (centre, neighbour) sorted by centre, and the whole cell vectors from neighbour to image.

        Args:
            positions: in Å.
            cell: lattice vectors as rows, in Å; those of a direction that does not repeat are not used.
            pbc: whether the structure repeats along each lattice vector.
        """
        pairs, shift = self._list.compute(positions, cell, pbc, "PS")
        return pairs.T.astype(np.int32), shift.astype(np.int32)

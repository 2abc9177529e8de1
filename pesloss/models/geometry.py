"""Where atoms are relative to each other, and how a strain moves them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pesloss.losses.batch import Batch


def edge_vectors(batch: Batch) -> Float[Tensor, "edges 3"]:
    """Vectors from each edge's centre to its neighbour, in the periodic image the edge means.

    ``r_ij = positions[j] − positions[i] + edge_shift @ cell``, in Å.
    """
    centre, neighbour = batch["edge_index"].unbind(0)
    positions = batch["positions"]
    cells = batch["cell"].index_select(0, batch["batch"].index_select(0, centre))
    shift = torch.bmm(batch["edge_shift"].unsqueeze(1), cells).squeeze(1)
    return positions.index_select(0, neighbour) - positions.index_select(0, centre) + shift


def deform(batch: Batch, strain: Float[Tensor, "structures 3 3"]) -> Batch:
    """A homogeneous strain moves atoms and lattice vectors alike: ``x → x (1 + ε)``.

    Args:
        batch: structures to deform; it is not changed.
        strain: ε, dimensionless. Only its symmetric part acts, because a rotation costs no energy.
    """
    symmetric = (strain + strain.mT) / 2
    positions = batch["positions"]
    moved = torch.bmm(positions.unsqueeze(1), symmetric.index_select(0, batch["batch"])).squeeze(1)
    cell = batch["cell"]
    return {**batch, "positions": positions + moved, "cell": cell + torch.bmm(cell, symmetric)}


def volume(cell: Float[Tensor, "structures 3 3"]) -> Float[Tensor, "structures"]:
    """Volume of each cell in Å³, ``|a · (b × c)|``; 0 where there is none."""
    a, b, c = cell.unbind(1)
    return (a * torch.linalg.cross(b, c)).sum(-1).abs()

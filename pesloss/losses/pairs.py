"""Ordered pairs of the atoms of a structure, (1,1), (1,2), ... (N,N), one structure after another."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pesloss.losses.batch import Batch, atom_counts, structure_of_row


def atoms_of_pairs(batch: Batch, num_pairs: int) -> tuple[Int[Tensor, "pairs"], Int[Tensor, "pairs"]]:
    """First and second atom of each pair of a batch."""
    structure, counts = structure_of_row(batch, "pair", num_pairs), atom_counts(batch)
    begins = counts.square().cumsum(0) - counts.square()
    place = torch.arange(num_pairs, device=structure.device) - begins[structure]
    size, offset = counts[structure], batch["ptr"][structure]
    return offset + place // size, offset + place % size


def product_of_blocks(
    blocks: Float[Tensor, "pairs 3 3"], vectors: Float[Tensor, "atoms 3 *directions"], batch: Batch
) -> Float[Tensor, "atoms 3 *directions"]:
    """Matrices that are given by blocks of pairs, each times the vectors of its structure's atoms."""
    first, second = atoms_of_pairs(batch, blocks.shape[0])
    flat = vectors.reshape(*vectors.shape[:2], math.prod(vectors.shape[2:])).to(blocks.dtype)
    return torch.zeros_like(flat).index_add(0, first, blocks @ flat[second]).reshape(vectors.shape)

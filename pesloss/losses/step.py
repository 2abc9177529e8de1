"""What all batches of an optimizer step have in common."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Num
from torch import Tensor


class Step(NamedTuple):
    """Denominators of one optimizer step, over all its batches and ranks.

    Args:
        counts: denominators of every channel of every term.
        labels: labelled components of every term.
        batches: number of batches that are accumulated on each rank.
        sums: sums of every channel, known if predictions were given; needed by terms that are not linear.
    """

    counts: Num[Tensor, "channels"]
    labels: Num[Tensor, "terms"]
    batches: int
    sums: Num[Tensor, "channels"] | None = None

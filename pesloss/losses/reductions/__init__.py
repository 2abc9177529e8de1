"""From costs to a sum and a count. Means do not add up over batches and ranks; sums and counts do."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pesloss.losses.reductions.base import Entries, Reduction, mean
from pesloss.losses.reductions.groups import PerElement, PerGroup
from pesloss.losses.reductions.pooled import Mean, RootMean, Sum
from pesloss.losses.reductions.structures import PerStructure

REDUCTIONS: Mapping[str, Callable[..., Reduction]] = {
    "mean": Mean,
    "sum": Sum,
    "per_structure": PerStructure,
    "per_element": PerElement,
    "root_mean": RootMean,
}
"""``PerGroup`` has no short name: it needs the names of its groups."""

__all__ = [
    "REDUCTIONS",
    "Entries",
    "Mean",
    "PerElement",
    "PerGroup",
    "PerStructure",
    "Reduction",
    "RootMean",
    "Sum",
    "mean",
]

"""From files to labelled structures to packed batches."""

from __future__ import annotations

from pesloss.data.batching import batches
from pesloss.data.dataset import Bundled, Files, LoadedData
from pesloss.data.neighbors import Neighbors
from pesloss.data.pack import Packed, pack
from pesloss.data.read import read
from pesloss.data.references import References, references
from pesloss.data.report import Report
from pesloss.data.splits import split
from pesloss.data.structures import Structure, Structures

__all__ = [
    "Bundled",
    "Files",
    "LoadedData",
    "Neighbors",
    "Packed",
    "References",
    "Report",
    "Structure",
    "Structures",
    "batches",
    "pack",
    "read",
    "references",
    "split",
]

"""From files to labelled structures to packed batches."""

from __future__ import annotations

from pesloss.data.batching import batches
from pesloss.data.dataset import Bundled, Files, LoadedData
from pesloss.data.files import File
from pesloss.data.loader import loader
from pesloss.data.neighbors import Neighbors
from pesloss.data.packed import Packed
from pesloss.data.packing import Packing, pack
from pesloss.data.read import Reader, read
from pesloss.data.references import References, references
from pesloss.data.report import Report
from pesloss.data.splits import split
from pesloss.data.store import Store
from pesloss.data.structures import Structure, Structures

__all__ = [
    "Bundled",
    "File",
    "Files",
    "LoadedData",
    "Neighbors",
    "Packed",
    "Packing",
    "Reader",
    "References",
    "Report",
    "Store",
    "Structure",
    "Structures",
    "batches",
    "loader",
    "pack",
    "read",
    "references",
    "split",
]

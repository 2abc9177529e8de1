"""From files to labelled structures to packed batches."""

from __future__ import annotations

from pesloss.data.batching import batches
from pesloss.data.dataset import Bundled, Files, LoadedData
from pesloss.data.loader import loader
from pesloss.data.neighbors import Neighbors
from pesloss.data.reading.files import File
from pesloss.data.reading.reader import Reader, read
from pesloss.data.reading.report import Report
from pesloss.data.reading.structures import Structure, Structures
from pesloss.data.references import References, references
from pesloss.data.splits import split
from pesloss.data.storage.packed import Packed
from pesloss.data.storage.packing import Packing, pack
from pesloss.data.storage.store import Store

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

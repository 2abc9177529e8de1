"""Checkpoints that a crash cannot spoil, and that can be read without running code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain data, whole or not at all: to a temporary file, synced, then renamed.

    Raises:
        OSError: if the folder cannot be written; an older checkpoint stays as it was.
    """
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; nothing in it is executed."""
    return torch.load(path, map_location="cpu", weights_only=True)

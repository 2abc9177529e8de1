"""Checkpoints that a crash cannot spoil, and that can be read without running code."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

BEST, LAST = "best.ckpt", "last.ckpt"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read, or does not fit what it is to continue."""


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain data, whole or not at all: to a temporary file, synced, then renamed.

    Raises:
        CheckpointError: if the file cannot be written; an older checkpoint stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # in memory first: torch's own writer does not survive a full disk
    torch.save(dict(content), buffer := io.BytesIO())
    try:
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        kept = f"the checkpoint before it, {path}, is intact" if path.exists() else "there is none before it"
        raise CheckpointError(f"Checkpoint {path} could not be written ({error}); {kept}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; nothing in it is executed.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is not a checkpoint.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({error}).") from error


def clean(folder: Path) -> None:
    """Remove what writers that were killed have left."""
    for path in folder.glob(".*.ckpt.*.tmp"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk only when its folder is."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""Checkpoints that a crash cannot spoil, and that can be read without running code."""

from __future__ import annotations

import io
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch

from pesloss.building import BuildError
from pesloss.safety.plain import check_plain

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
    """The content of a checkpoint, tensors and plain data; nothing in it is executed.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is not a checkpoint, is damaged, or holds anything else.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    if not path.is_file():
        raise CheckpointError(f"{path} cannot be read as a checkpoint (it is not a file).")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            _check_archive(file, size)
            file.seek(0)
            with warnings.catch_warnings():
                # of bytes that happen to stand where the pickle says which language it is in
                warnings.filterwarnings("error", message="Detected pickle protocol")
                content = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}, not a dict")
        check_plain(content, size)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({_reason(error)}).") from error
    return content


@contextmanager
def understood(name: str | Path) -> Iterator[None]:
    """Around code that takes a checkpoint for what pesloss writes, though anybody may have written it.

    Raises:
        CheckpointError: for every slip over what it says.
        BuildError: as it is.
    """
    try:
        yield
    except (BuildError, CheckpointError):
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        text = "; ".join(line.strip() for line in str(error).splitlines()) or "no reason"
        raise CheckpointError(
            f"{name} does not say what a checkpoint of a training says ({type(error).__name__}: {text})."
        ) from error


def located(path: str | Path, name: str = BEST) -> Path:
    """A checkpoint as people name it: the file, or the folder of its run."""
    path = Path(path)
    return path / name if path.is_dir() else path


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


def _check_archive(file: IO[bytes], size: int) -> None:
    """The file is an archive as torch writes it, and whole: torch does not compare the checksums.

    Compressed or overlapping entries could unpack to any size.
    """
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no archive of torch.save, or its end is missing; bare pickles are not opened")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it holds compressed entries, which torch does not write")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its entries claim to be larger than the file")
        if any(entry.is_dir() or entry.external_attr for entry in entries):
            # torch finds nothing in a folder, and the tensor of it would be whatever is in the memory
            raise ValueError("it holds folders, which torch does not write")
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("it holds two entries of one name")
        if damaged := archive.testzip():
            raise ValueError(f"it is damaged: the checksum of its entry {damaged!r} is wrong")


def _reason(error: Exception) -> str:
    """What was wrong; torch would advise to load the file unsafely."""
    text = str(error).partition("\n")[0] or type(error).__name__
    if isinstance(error, pickle.UnpicklingError):
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            return "what it holds is neither tensors nor plain data"
        return f"it holds {found[1]}, which is neither a tensor nor plain data and could run code"
    return text

"""What a stranger's file may hold: tensors and plain data, of no more extent than its file."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import torch

DEEPEST = 50
"""How deep the content of a checkpoint may be nested; a config hardly reaches 10."""
MOST_VALUES = 10**6
"""How many values it may hold if the file is small and refers to the same ones again and again."""

MOST_BYTES = 2**20
"""How large a tensor may be that repeats the few numbers it holds, as an expanded one does."""

_TOP = "the content"
# YAML makes dates of what looks like them
_LEAVES = (str, bool, int, float, date, datetime)


def check_plain(content: Any, size: int) -> None:
    """Whoever reads the content of a file can walk through it, in a time that the size of the file bounds.

    Args:
        content: as it was read.
        size: of the file, in bytes.

    Raises:
        TypeError: for anything but tensors, numbers, strings, and lists and dicts of these.
        ValueError: for what would fill the memory, or end never.
    """
    if _extent(content, _TOP, DEEPEST, {})[0] > max(size, MOST_VALUES):
        raise ValueError("what it holds refers to itself so often that it would be endless to read")


def _extent(value: Any, place: str, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Number of values in a value, each as often as it is referred to, and how deep they are nested."""
    if not isinstance(value, (dict, list, tuple)):
        _check_leaf(value, place)
        return 1, 0
    if depth == 0:
        raise ValueError(f"what stands at {place} is nested too deeply")
    if id(value) not in known:
        if isinstance(value, dict):
            for key in value:
                _check_key(key, place)
        items = value.items() if isinstance(value, dict) else enumerate(value)
        inner = [_extent(part, _below(place, key), depth - 1, known) for key, part in items]
        height = 1 + max((height for _, height in inner), default=0)
        known[id(value)] = 1 + sum(count for count, _ in inner), height
    count, height = known[id(value)]
    if height > depth:
        raise ValueError(f"what stands at {place} is nested too deeply")
    return count, height


def _check_key(key: Any, place: str) -> None:
    if not isinstance(key, (str, int)):
        raise TypeError(f"{place} has a key of type {type(key).__name__}")
    _check_leaf(key, f"{place} (a key)")


def _check_leaf(value: Any, place: str) -> None:
    if isinstance(value, torch.Tensor):
        _check_tensor(value, place)
    elif value is not None and type(value) not in _LEAVES:
        raise TypeError(f"{place} is of type {type(value).__name__}, neither a tensor nor plain data")
    elif type(value) is int and not -(2**63) <= value < 2**63:
        raise ValueError(f"{place} is an integer of {value.bit_length()} bits")


def _check_tensor(tensor: torch.Tensor, place: str) -> None:
    """A tensor that repeats few numbers without end would fill the memory of whoever copies it."""
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.is_quantized or tensor.is_nested or tensor.device.type != "cpu":
        raise TypeError(f"{place} is not a plain tensor")
    if tensor.numel() * tensor.element_size() > max(tensor.untyped_storage().nbytes(), MOST_BYTES):
        raise ValueError(f"{place} is a tensor of {tensor.numel()} numbers and holds fewer")


def _below(place: str, key: object) -> str:
    return f"{place}.{key}"[:200] if place != _TOP else str(key)[:200]

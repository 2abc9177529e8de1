"""Command lines that a checkpoint tells of: what of them may be repeated on another machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

_HYDRA = "hydra"


def parsed(override: str) -> Override | None:
    """What Hydra makes of a word on the command line; ``None`` if it is no override."""
    try:
        return OverridesParser.create().parse_override(override)
    except (HydraException, RecursionError):
        return None


def of_hydra(override: Override) -> bool:
    """Whether it sets up Hydra itself: folders, logging, launchers, callbacks."""
    return _HYDRA in re.split("[./@]", f"{override.key_or_group}@{override.package or ''}")


def objection(word: Any) -> str | None:
    """Why a word of a stranger's command line may not be repeated; ``None`` if it may.

    Hydra runs what its own part of a config names, opens any file that stands for an option, and reads the
    environment where a value asks for it.

    Example:
        >>> objection("loss.weights.forces=10") is None
        True
        >>> objection("+hydra.callbacks.x._target_=os.system")
        'it sets up Hydra itself, which can start programs and choose folders'
        >>> objection("--experimental-rerun=job.pickle")
        'it is not an override'
    """
    override = parsed(word) if isinstance(word, str) and word.isprintable() else None
    if override is None or not override.key_or_group or override.is_sweep_override():
        return "it is not an override"
    if of_hydra(override):
        return "it sets up Hydra itself, which can start programs and choose folders"
    for key, value in _leaves(override.key_or_group, override.value()):
        if reason := _objection(key, value):
            return reason
    return None


def _objection(key: str, value: Any) -> str | None:
    text = str(value)
    if "${" in text and ":" in text:
        return "its value is computed where it is read, possibly from the environment"
    if "." not in key and (text.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", text)):
        return "it leads to a file outside the folder of options"
    if key.rpartition(".")[2] == "cache" and value not in (None, "auto"):
        return "it chooses a folder to write to"
    return None


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Values by dotted key; entries of a list go by the key of the list."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(key, inner)
    else:
        yield key, value

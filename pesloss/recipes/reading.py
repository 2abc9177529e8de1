"""Reading other projects' configs: text, and keys that exist."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from pesloss.names import unknown
from pesloss.safety.plain import check_plain


def as_data(config: Any) -> Any:
    """A config as plain data: JSON, TOML or YAML if it is text, else as it is.

    Raises:
        ValueError: if the text is none of them, or refers to itself without end.
        TypeError: if it holds more than numbers, strings, lists and mappings.
    """
    if not isinstance(config, str):
        return config
    readings = (_read(read, config) for read in (json.loads, _toml, yaml.safe_load))
    found = next((data for data in readings if data is not None), None)
    if found is None:
        raise ValueError(f"The config is neither JSON nor TOML nor YAML: {config[:200]!r}")
    check_plain(found, len(config))
    return found


def check_keys(where: str, mapping: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse keys that do not exist.

    Raises:
        ValueError: with the nearest key that does.
    """
    known = list(known)
    for key in mapping:
        if key not in known:
            raise ValueError(f"{where}: {unknown('key', key, known)}")


def mapping_of(where: str, config: Any) -> dict[str, Any]:
    """A config that has to be a mapping.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"{where} must be a mapping, got {config!r}.")
    return {str(key): value for key, value in config.items()}


def _read(read: Callable[[str], Any], text: str) -> Any:
    """What a text says in a language, ``None`` if it is not in it."""
    try:
        return read(text)
    except (ImportError, RecursionError, ValueError, yaml.YAMLError):
        return None


def _toml(text: str) -> Any:
    import tomllib  # Python 3.11 and later; before, a table has to be given as a mapping

    return tomllib.loads(text)

"""Reading other projects' configs: text, and keys that exist."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from pesloss.names import unknown


def as_data(config: Any) -> Any:
    """A config as plain data: JSON, TOML or YAML if it is text, else as it is.

    Raises:
        ValueError: if the text is none of them.
    """
    if not isinstance(config, str):
        return config
    for read in (json.loads, _toml, yaml.safe_load):
        try:
            return read(config)
        except (ImportError, ValueError, yaml.YAMLError) as error:
            reason = error
    raise ValueError(f"The config is neither JSON nor TOML nor YAML: {reason}")


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


def _toml(text: str) -> Any:
    import tomllib  # Python 3.11 and later; before, a table has to be given as a mapping

    return tomllib.loads(text)

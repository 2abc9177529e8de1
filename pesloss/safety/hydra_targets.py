"""What Hydra may build from its own part of a config, which it does before the app is asked.

Launchers and sweepers are looked up among the installed plugins. But whatever a config puts below them, into
``hydra.callbacks`` or into the settings of the logging would be imported and called by its dotted name, and
a config may be a stranger's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pesloss.building import BuildError, permitted
from pesloss.safety.overrides import parsed

PLUGINS = ("hydra.launcher._target_", "hydra.sweeper._target_")
"""Hydra takes these from its installed plugins only."""
SEARCH_SPACE = "hydra.sweeper.custom_search_space"
"""Optuna's sweeper calls what this names."""
SHELL = ("setup", "srun_args", "additional_parameters", "python")
"""Settings of the launcher for SLURM that become lines of a shell script."""
DEEPEST = 30
"""How deep that part may be nested; interpolations may lead in circles."""
_HARMLESS = (
    r"logging\.(Formatter|NullHandler|StreamHandler|FileHandler)"
    r"|logging\.handlers\.(Timed)?RotatingFileHandler"
    r"|colorlog\.ColoredFormatter"
    r"|optuna\.samplers\.\w+Sampler"
)


@contextmanager
def checked_configs() -> Iterator[None]:
    """Within it, each config that Hydra composes is checked before Hydra acts on it."""
    before = ConfigLoaderImpl.load_configuration

    def load_configuration(self: ConfigLoaderImpl, *args: Any, **kwargs: Any) -> Any:
        config = before(self, *args, **kwargs)
        check(config, kwargs.get("overrides") or (args[1] if len(args) > 1 else ()))
        return config

    ConfigLoaderImpl.load_configuration = load_configuration
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = before


def check(config: Any, overrides: Iterable[str] = ()) -> None:
    """Refuse what would be called by its name, unless it was typed, key by key, on the command line.

    Raises:
        BuildError: naming the key and what stands there.
    """
    typed = {found.key_or_group for found in map(parsed, overrides) if found is not None}
    for key, name in _called("hydra", config.get("hydra"), DEEPEST):
        if key not in typed:
            _check_target(key, name)
    for key in (f"hydra.launcher.{name}" for name in SHELL):
        if OmegaConf.select(config, key) and not any(word.split(".")[:3] == key.split(".") for word in typed):
            raise BuildError(f"{key}: a config file does not run commands; give it here on the command line.")
    variables = OmegaConf.select(config, "hydra.job.env_set") or {}
    if unsaid := [name for name in variables if f"hydra.job.env_set.{name}" not in typed]:
        raise BuildError(
            f"hydra.job.env_set: a config file does not set environment variables ({', '.join(unsaid)}); "
            "set them in the shell, or here on the command line."
        )


def _check_target(key: str, name: Any) -> None:
    if key in PLUGINS or (isinstance(name, str) and re.fullmatch(_HARMLESS, name)):
        return
    try:
        permitted(name)
    except BuildError as error:
        raise BuildError(f"{key}: {error}") from None


def _called(key: str, node: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Every name that something is called by, with its key, wherever interpolations lead."""
    if depth == 0:
        raise BuildError(f"{key}: nested too deeply.")
    if isinstance(node, ListConfig):
        for index in range(len(node)):
            yield from _called(f"{key}[{index}]", _value(node, index), depth - 1)
    elif isinstance(node, DictConfig) and not (node._is_none() or node._is_missing()):
        for name in node:
            below, value = f"{key}.{name}", _value(node, name)
            if _is_call(below, name, value):
                yield below, value
            else:
                yield from _called(below, value, depth - 1)


def _is_call(key: str, name: Any, value: Any) -> bool:
    if key == SEARCH_SPACE:
        return value is not None
    return name in ("_target_", "()") or (name == "class" and "logging" in key)


def _value(node: Any, key: Any) -> Any:
    """What stands in a config, as it is written where that cannot be told yet."""
    try:
        found = node[key]
    except OmegaConfBaseException:
        return node._get_node(key)
    # a resolver such as oc.decode may well make a node of a text
    return OmegaConf.create(found) if isinstance(found, (dict, list, tuple)) else found

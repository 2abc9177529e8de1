"""Composing the config of a job once: to find its folder, and to run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import OmegaConf, open_dict

from pesloss.names import quoted

KEPT = 256
"""Configs that are kept until their jobs run; each takes half a megabyte."""


class Remembering:
    """Hydra's loader of configs, which knows the configs of some command lines already.

    Args:
        loader: composes a config that is not known.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._known: dict[tuple[str, ...], Any] = {}

    def remember(self, words: Sequence[str], config: Any) -> None:
        """This is what the words will be composed to when they are asked for, once."""
        if len(self._known) < KEPT:
            self._known[tuple(words)] = config

    def load_sweep_config(self, master_config: Any, sweep_overrides: list[str]) -> Any:
        """The config of a job, as Hydra's loader has it."""
        known = self._known.pop(tuple(sweep_overrides), None)
        return self._loader.load_sweep_config(master_config, sweep_overrides) if known is None else known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Another process gets the loader itself."""
        return _itself, (self._loader,)


def placed(config: Any, words: Sequence[str], sweep: str, job: str) -> list[str]:
    """Put a job where its folder is, as if its command line had said so.

    Args:
        config: of the job; it is changed.
        words: of the command line that it was composed of.
        sweep: folder of the sweep.
        job: the job's folder within it.

    Returns:
        The command line that says so.
    """
    place = [f"hydra.sweep.dir={quoted(sweep)}", f"hydra.sweep.subdir={quoted(job)}"]
    OmegaConf.set_readonly(config.hydra, None)  # it is not, as long as Hydra has not taken it
    with open_dict(config):
        config.hydra.sweep.dir, config.hydra.sweep.subdir = sweep, job
        config.hydra.overrides.hydra.extend(place)
    return [*words, *place]


def _itself(loader: ConfigLoader) -> ConfigLoader:
    return loader

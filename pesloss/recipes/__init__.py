"""Other projects' losses, spelt in our parts, and their configs as losses of ours."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from pesloss.building import build
from pesloss.losses import TotalLoss
from pesloss.names import unknown
from pesloss.recipes.reading import as_data
from pesloss.recipes.recipe import Recipe, load

PROJECTS = (
    "deepmd",
    "fairchem",
    "graph_pes",
    "mace",
    "matgl",
    "metatrain",
    "modelforge",
    "nequip",
    "nvalchemi",
    "orb",
    "schnetpack",
    "sevennet",
    "tace",
    "torchmdnet",
)


def node(project: str, config: Any, **options: Any) -> dict[str, Any]:
    """The loss section of a project's own config as a node of ours, plain data that can be saved as YAML.

    Args:
        project: one of :data:`PROJECTS`.
        config: the section, as a mapping, as text (YAML, TOML, JSON), or as the project's command-line flags.
        options: what else the project's module takes, such as the section of its targets.

    Raises:
        ValueError: for an unknown project, and for keys that the project's config does not have.
    """
    name = project.replace("-", "_").lower()
    if name not in PROJECTS:
        raise ValueError(unknown("project", project, PROJECTS))
    module = importlib.import_module(f"pesloss.recipes.{name}")
    try:
        return module.node(config if name == "mace" else as_data(config), **options)
    except (MemoryError, RecursionError, SyntaxError) as error:
        raise ValueError(f"The config of {project} cannot be read ({error}).") from error


def from_config(project: str, config: Any, *, faithful: bool = False, **options: Any) -> TotalLoss:
    """The loss that a project's own config describes, pasted as it is.

    Args:
        project: one of :data:`PROJECTS`.
        config: see :func:`node`.
        faithful: whether to reproduce the project's defects as well.
        options: see :func:`node`.

    Raises:
        ValueError: as in :func:`node`.

    Example:
        >>> loss = from_config("mace", "--loss=weighted --forces_weight=10")
        >>> list(loss.required)
        ['energy', 'forces']
    """
    made: Mapping[str, Any] = {**node(project, config, **options), "faithful": faithful}
    return build(made)


__all__ = ["PROJECTS", "Recipe", "from_config", "load", "node"]

"""Comparisons by project: the original's call, and the name of our loss that claims to be equal."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.parity.drawing import Drawing, Drawn

HERE = Path(__file__).parent
PROJECTS = tuple(sorted(path.stem for path in (HERE / "peers").glob("*.py") if not path.stem.startswith("_")))
_CASES: dict[str, dict[str, Case]] = {}


@dataclass(frozen=True)
class Case:
    """One comparison.

    Args:
        project: whose loss it is.
        name: of the case in its file.
        original: total of the original for a drawn batch, connected to its predictions.
        drawing: what is drawn.
        loss: our recipe, a file of ``conf/loss``; or
        config: a project and a config, pasted into ``pesloss.recipes.from_config``.
        overrides: dotted keys of our node and their values.
        options: further arguments of ``from_config``.
        faithful: whether our loss is to have the original's defects.
        rename: names of predictions in the original and in ours.
        ranks: whether the original claims to be exact on ranks with unequal batches.
        tolerance: relative and absolute, of value and gradients.
        because: why it is looser than 1e-12.
    """

    project: str
    name: str
    original: Callable[[Drawn], Tensor]
    drawing: Drawing
    loss: str | None = None
    config: tuple[str, Any] | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    faithful: bool = False
    rename: Mapping[str, str] = field(default_factory=dict)
    ranks: bool = False
    tolerance: float = 1e-12
    because: str = ""


def case(
    *,
    loss: str | None = None,
    config: tuple[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    faithful: bool = False,
    rename: Mapping[str, str] | None = None,
    ranks: bool = False,
    tolerance: float = 1e-12,
    because: str = "",
    **drawing: Any,
) -> Callable[[Callable[[Drawn], Tensor]], Callable[[Drawn], Tensor]]:
    """Register a function that gives the original's total, see :class:`Case` and :class:`Drawing`."""
    if (loss is None) == (config is None):
        raise TypeError("A case is of a recipe (loss=...) or of a config (config=(project, ...)).")
    if (tolerance > 1e-12) != bool(because):
        raise TypeError("A tolerance looser than 1e-12 needs a reason, `because`.")

    def register(original: Callable[[Drawn], Tensor]) -> Callable[[Drawn], Tensor]:
        project = original.__module__.rpartition(".")[2]
        made = Case(
            project,
            original.__name__,
            original,
            Drawing(**drawing),
            loss,
            config,
            overrides or {},
            options or {},
            faithful,
            rename or {},
            ranks,
            tolerance,
            because,
        )
        cases = _CASES.setdefault(project, {})
        if made.name in cases:
            raise ValueError(f"{project} has two cases '{made.name}'.")
        cases[made.name] = made
        return original

    return register


def cases_of(project: str) -> dict[str, Case]:
    """Cases of a project by name."""
    importlib.import_module(f"tests.parity.peers.{project}")
    return _CASES[project]

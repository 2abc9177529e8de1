"""Losses for machine-learned interatomic potentials."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pesloss.building import build
    from pesloss.losses import (
        Absolute,
        Difference,
        FreeAtoms,
        Huber,
        L2Norm,
        Labelled,
        LossOutput,
        Mean,
        NormalLoss,
        Penalty,
        PerAtom,
        PerStructure,
        Property,
        PropertyTerm,
        Reduction,
        Residual,
        RootMean,
        Squared,
        Step,
        Sum,
        Term,
        TotalLoss,
        UncertaintyLoss,
        Voigt,
        explain_nonfinite,
        group_code,
    )
    from pesloss.models.trained import load

__all__ = [
    "Absolute",
    "Difference",
    "FreeAtoms",
    "Huber",
    "L2Norm",
    "Labelled",
    "LossOutput",
    "Mean",
    "NormalLoss",
    "Penalty",
    "PerAtom",
    "PerStructure",
    "Property",
    "PropertyTerm",
    "Reduction",
    "Residual",
    "RootMean",
    "Squared",
    "Step",
    "Sum",
    "Term",
    "TotalLoss",
    "UncertaintyLoss",
    "Voigt",
    "build",
    "explain_nonfinite",
    "group_code",
    "load",
]
_HOMES = {"build": "pesloss.building", "load": "pesloss.models.trained"}


def __getattr__(name: str) -> Any:
    """The public names, imported on first use: ``--help`` must not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'pesloss' has no attribute '{name}'; it has {__all__}")
    return getattr(importlib.import_module(_HOMES.get(name, "pesloss.losses")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _bind_conf() -> None:
    """Make top-level ``conf/`` importable as ``pesloss.conf`` in a checkout, as the wheel installs it."""
    folder = Path(__file__).parent.parent / "conf"
    init = folder / "__init__.py"
    if importlib.util.find_spec("pesloss.conf") is not None or not init.exists():
        return
    spec = importlib.util.spec_from_file_location(
        "pesloss.conf", init, submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pesloss.conf"] = module
    spec.loader.exec_module(module)


_bind_conf()

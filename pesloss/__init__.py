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

# resolved on first use, because `--help` must not wait for torch
_PUBLIC = {
    "pesloss.building": ("build",),
    "pesloss.losses": (
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
        "explain_nonfinite",
        "group_code",
    ),
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'pesloss' has no attribute '{name}'; it has {sorted(_MODULES)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


def _bind_conf() -> None:
    """Make top-level ``conf/`` importable as ``pesloss.conf`` in a checkout, as the wheel installs it."""
    init = Path(__file__).parent.parent / "conf" / "__init__.py"
    if importlib.util.find_spec("pesloss.conf") is not None or not init.exists():
        return
    spec = importlib.util.spec_from_file_location("pesloss.conf", init, submodule_search_locations=[str(init.parent)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pesloss.conf"] = module
    spec.loader.exec_module(module)


_bind_conf()

"""How far a prediction is from its label, before any penalty."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pesloss.losses.residuals.base import Residual
from pesloss.losses.residuals.difference import Difference, PerAtom
from pesloss.losses.residuals.periodic import ModuloQuantum
from pesloss.losses.residuals.scaling import Relative, Scaled, Standardized
from pesloss.losses.residuals.spectra import Cumulative
from pesloss.losses.residuals.tensors import Trace, Voigt
from pesloss.losses.residuals.vectors import Direction, Magnitude

RESIDUALS: Mapping[str, Callable[..., Residual]] = {
    "difference": Difference,
    "per_atom": PerAtom,
    "voigt": Voigt,
    "trace": Trace,
    "relative": Relative,
    "standardized": Standardized,
    "direction": Direction,
    "magnitude": Magnitude,
    "modulo_quantum": ModuloQuantum,
    "cumulative": Cumulative,
}
"""``Scaled`` has no short name: it needs its factor."""

__all__ = [
    "RESIDUALS",
    "Cumulative",
    "Difference",
    "Direction",
    "Magnitude",
    "ModuloQuantum",
    "PerAtom",
    "Relative",
    "Residual",
    "Scaled",
    "Standardized",
    "Trace",
    "Voigt",
]

"""What a residual costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from pesloss.losses.penalties.base import Penalty
from pesloss.losses.penalties.elementwise import Absolute, Quantile, Squared
from pesloss.losses.penalties.huber import Huber, HuberLike, HuberNorm, LogCosh, QuantileHuber
from pesloss.losses.penalties.norms import L2Norm, SquaredNorm
from pesloss.losses.penalties.strata import ConditionalHuber, ConditionalSquared, StratifiedHuber

PENALTIES: Mapping[str, Callable[..., Penalty]] = {
    "squared": Squared,
    "absolute": Absolute,
    "quantile": Quantile,
    "huber": Huber,
    "scaled_huber": partial(Huber, scale=True),
    "smooth_l1": partial(Huber, scale=True),
    "log_cosh": LogCosh,
    "quantile_huber": QuantileHuber,
    "l2_norm": L2Norm,
    "squared_norm": SquaredNorm,
    "huber_norm": HuberNorm,
    "conditional_huber": ConditionalHuber,
    "conditional_squared": ConditionalSquared,
}
"""``StratifiedHuber`` has no short name: it needs its strata."""

__all__ = [
    "PENALTIES",
    "Absolute",
    "ConditionalHuber",
    "ConditionalSquared",
    "Huber",
    "HuberLike",
    "HuberNorm",
    "L2Norm",
    "LogCosh",
    "Penalty",
    "Quantile",
    "QuantileHuber",
    "Squared",
    "SquaredNorm",
    "StratifiedHuber",
]

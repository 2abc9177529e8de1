"""Which jobs of a sweep repeat each other: they differ in nothing but a seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_seed(key: str) -> bool:
    """Whether a key of the config repeats a setting and makes no other.

    Example:
        >>> [is_seed(key) for key in ("seed", "data.seed", "model.init_seed", "seeds", "trainer.epochs")]
        [True, True, True, False, False]
    """
    return key.rpartition(".")[2].lstrip("+") == "seed" or key.endswith("_seed")


def without_seeds(swept: Mapping[str, Any]) -> dict[str, Any]:
    """What a job is set to, but for its seeds."""
    return {key: value for key, value in swept.items() if not is_seed(key)}

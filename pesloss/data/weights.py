"""Weights that a file gives to structures, to atoms and to single properties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float64

from pesloss.data.labels import ALIASES, ARRAYS, INFO, Place, as_numbers, find, key_places
from pesloss.losses.properties import Property


def find_weights(
    properties: Iterable[Property], num_atoms: int, content: Mapping[Place, Any], keys: Mapping[str, str]
) -> dict[str, tuple[Place, np.ndarray]]:
    """Weights that a structure carries, by name, and where they stand.

    Raises:
        ValueError: if a weight is negative or of a wrong shape.
    """
    one, each, vector = (), (num_atoms,), (num_atoms, 3)
    wanted = [
        ("weight", _in(INFO, "weight", "config_weight"), (one,)),
        ("atom_weight", _in(ARRAYS, "atom_weight", "weight"), (each, vector)),
    ]
    for prop in properties:
        names = [f"{name}_weight" for name in (prop.name, *ALIASES.get(prop.name, ()))]
        spread = (one, each) if prop.rows == "atom" else (one,)
        places = [*_in(INFO, *names, *(f"config_{name}" for name in names)), *_in(ARRAYS, *names)]
        wanted.append((f"{prop.name}_weight", places, spread))
    found = {}
    for name, places, shapes in wanted:
        candidates = key_places(keys[name]) if name in keys else places
        if match := find(name, candidates, content, partial(_as_weight, shapes=shapes)):
            found[name] = match
    return found


def _in(where: str, *names: str) -> list[Place]:
    return [Place(where, name) for name in names]


def _as_weight(value: Any, shapes: tuple[tuple[int, ...], ...]) -> Float64[np.ndarray, "..."]:
    """Weights, one value spread over the atoms if there is one a atom.

    Raises:
        ValueError: if one is negative or NaN, or the shape fits none of the given.
    """
    weights = as_numbers(value)
    weights = weights.reshape(()) if weights.shape == (1,) and () in shapes else weights
    if weights.shape not in shapes:
        raise ValueError(f"has shape {weights.shape}, expected {' or '.join(map(str, shapes))}")
    if not (weights >= 0).all():
        raise ValueError(f"must not be negative or NaN, got {weights.min()}")
    return np.broadcast_to(weights, shapes[-1]) if weights.shape == () else weights

"""Weights that a file gives to structures, to atoms and to single properties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float64

from pesloss.data.reading.formats.base import ARRAYS, DATA, INFO, Place
from pesloss.data.reading.labels import ALIASES, as_numbers
from pesloss.losses.properties import Property

Spread: TypeAlias = Literal["one", "atoms", "components"]


def weight_names(properties: Iterable[str]) -> list[str]:
    """What weights are called in a structure, and in a user's keys."""
    return ["weight", "atom_weight", *(f"{name}_weight" for name in properties)]


def weight_places(properties: Mapping[str, Property]) -> dict[str, list[Place]]:
    """Where weights usually stand, by their names."""
    places = {
        "weight": _in(INFO, "weight", "config_weight") + _in(DATA, "weight"),
        "atom_weight": _in(ARRAYS, "atom_weight", "weight") + _in(DATA, "atom_weight"),
    }
    for prop in properties:
        names = [f"{name}_weight" for name in (prop, *ALIASES.get(prop, ()))]
        inside = _in(INFO, *names, *(f"config_{name}" for name in names))
        places[f"{prop}_weight"] = [*inside, *_in(ARRAYS, *names), *_in(DATA, *names)]
    return places


def spreads(name: str, properties: Mapping[str, Property]) -> Sequence[Spread]:
    """What a weight of this name may be one of: a structure, its atoms, their components."""
    if name == "atom_weight":
        return ("atoms", "components")
    prop = properties.get(name.removesuffix("_weight"))
    return ("one", "atoms") if prop is not None and prop.rows == "atom" else ("one",)


def as_weight(value: Any, spread: Sequence[Spread], num_atoms: int) -> Float64[np.ndarray, "..."]:
    """Weights, one value spread over the atoms if there may be one an atom.

    Raises:
        ValueError: if one is negative or NaN, or the shape is none of the possible ones.
    """
    sizes: dict[Spread, tuple[int, ...]] = {"one": (), "atoms": (num_atoms,), "components": (num_atoms, 3)}
    shapes = [sizes[one] for one in spread]
    weights = as_numbers(value)
    weights = weights.reshape(()) if weights.shape == (1,) and () in shapes else weights
    if weights.shape not in shapes:
        raise ValueError(f"has shape {weights.shape}, expected {' or '.join(map(str, shapes))}")
    if not (weights >= 0).all():
        raise ValueError(f"must not be negative or NaN, got {weights.min()}")
    return np.broadcast_to(weights, shapes[-1]) if weights.shape == () else weights


def _in(where: str, *names: str) -> list[Place]:
    return [Place(where, name) for name in names]

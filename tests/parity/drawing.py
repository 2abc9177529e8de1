"""Random batches that both sides of a comparison see. Imports nothing of pesloss: projects run it at home."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

SIZES = (4, 1, 5, 2, 3)
RANKS = ((0, 1, 2), (3, 4))
"""Structures of each of two ranks: ten atoms and five."""

Shape = tuple[str, tuple[int, ...]]
Missing = Literal["none", "rows", "entries"]
Weights = Literal["none", "structure", "all"]

SHAPES: Mapping[str, Shape] = {
    "energy": ("structure", ()),
    "forces": ("atom", (3,)),
    "stress": ("structure", (3, 3)),
    "virial": ("structure", (3, 3)),
    "dipole": ("structure", (3,)),
    "charges": ("atom", ()),
    "polarizability": ("structure", (3, 3)),
}


@dataclass
class Drawn:
    """One batch and what a model says of it.

    Args:
        batch: structures, weights, and labels that are NaN where they are missing.
        predictions: leaves by name, in float64.
    """

    batch: dict[str, Tensor]
    predictions: dict[str, Tensor]

    @property
    def num_atoms(self) -> Tensor:
        """Number of atoms of each structure."""
        return self.batch["ptr"].diff()

    def filled(self, name: str) -> Tensor:
        """Labels with zeros where they are missing, as codes write them that know no missing labels."""
        return self.batch[name].nan_to_num(nan=0.0)

    def labelled(self, name: str) -> Tensor:
        """1 for each row whose label is complete, else 0."""
        label = self.batch[name]
        return (~label.isnan()).reshape(label.shape[0], -1).all(1).to(label.dtype)

    def take(self, structures: Sequence[int]) -> Drawn:
        """Some of the structures."""
        index = torch.tensor(structures)
        atoms = torch.cat([torch.arange(*self.batch["ptr"][i : i + 2].tolist()) for i in structures])
        num = (len(self.num_atoms), int(self.batch["ptr"][-1]))
        counts = self.num_atoms[index]

        def rows(values: Tensor) -> Tensor:
            return values[index] if values.shape[0] == num[0] else values[atoms]

        batch = {key: rows(value) for key, value in self.batch.items() if key not in ("ptr", "batch")}
        batch["ptr"] = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        batch["batch"] = torch.repeat_interleave(torch.arange(len(structures)), counts)
        predictions = {
            name: rows(p.detach()).clone().requires_grad_() for name, p in self.predictions.items()
        }
        return Drawn(batch, predictions)


@dataclass(frozen=True)
class Drawing:
    """What is drawn for a case, see :func:`tests.parity.cases.case`."""

    labels: Sequence[str] = ("energy", "forces")
    missing: Missing = "none"
    weights: Weights = "none"
    forces_scale: float = 1.0
    symmetric: bool = False
    sizes: Sequence[int] = SIZES
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    extra: Mapping[str, Shape] = field(default_factory=dict)
    setup: Callable[[Drawn], Mapping[str, Any]] | None = None

    def draw(self, seed: int) -> Drawn:
        """The batch of a seed."""
        source = np.random.RandomState(seed)  # its stream is frozen for all versions and machines
        counts = torch.tensor(self.sizes)
        num = {"structure": len(self.sizes), "atom": int(counts.sum())}
        shapes = {**SHAPES, **self.shapes}
        batch = self._structures(source, counts, num)
        predictions = {}
        for name in self.labels:
            batch[name], predictions[name] = (self._values(source, name, *shapes[name], num) for _ in "lp")
            batch[name] = self._some_missing(source, batch[name])
        for name, shape in self.extra.items():
            predictions[name] = self._values(source, name, *shape, num)
        batch.update(self._weights(source, num["structure"], self.labels))
        drawn = Drawn(batch, {name: p.requires_grad_() for name, p in predictions.items()})
        if self.setup is not None:
            batch.update(self.setup(drawn))
        return drawn

    def _structures(
        self, source: np.random.RandomState, counts: Tensor, num: Mapping[str, int]
    ) -> dict[str, Tensor]:
        return {
            "ptr": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            "batch": torch.repeat_interleave(torch.arange(num["structure"]), counts),
            "numbers": torch.from_numpy(source.choice([1, 6, 8], num["atom"])),
            "positions": torch.from_numpy(source.uniform(0, 5, (num["atom"], 3))),
            "cell": torch.from_numpy(5 * np.eye(3) + source.uniform(-1, 1, (num["structure"], 3, 3))),
            "pbc": torch.ones(num["structure"], 3, dtype=torch.bool),
        }

    def _values(
        self,
        source: np.random.RandomState,
        name: str,
        rows: str,
        shape: tuple[int, ...],
        num: Mapping[str, int],
    ) -> Tensor:
        values = torch.from_numpy(source.standard_normal((num[rows], *shape)))
        values = values * (self.forces_scale if name == "forces" else 1.0)
        return 0.5 * (values + values.mT) if self.symmetric and shape == (3, 3) else values

    def _some_missing(self, source: np.random.RandomState, label: Tensor) -> Tensor:
        if self.missing == "rows":
            label[torch.from_numpy(source.uniform(size=label.shape[0]) < 0.3)] = torch.nan
        elif self.missing == "entries":
            label[torch.from_numpy(source.uniform(size=tuple(label.shape)) < 0.3)] = torch.nan
        return label

    def _weights(
        self, source: np.random.RandomState, structures: int, labels: Iterable[str]
    ) -> dict[str, Tensor]:
        named = {
            "none": [],
            "structure": ["weight"],
            "all": ["weight", *(f"{name}_weight" for name in labels)],
        }
        found = {}
        for key in named[self.weights]:
            found[key] = torch.from_numpy(source.uniform(0.5, 2.0, structures))
            found[key][source.randint(structures)] = 0.0
        return found

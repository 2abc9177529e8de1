"""A model that goes wrong for structures with silver, and data in which one has silver."""

from __future__ import annotations

from pathlib import Path

import ase.io
import torch
from torch import nn

from pesloss.building import allow
from pesloss.losses.batch import num_structures
from pesloss.models import PaiNN
from tests import files

TARGET = "tests.fragile.Fragile"
SILVER = 47
allow(TARGET)


class Fragile(PaiNN):
    """PaiNN with a random number and a counter in training, and one of three faults.

    Args:
        fault: ``prediction`` (the energy is infinite), ``gradient`` (only that of ``gain`` is not finite: the
            root of zero) or ``spike`` (a gradient that is large).
    """

    def __init__(self, fault: str = "gradient", **options) -> None:
        super().__init__(**options)
        self.fault, self.gain = fault, nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch, properties=None):
        found = super().forward(batch, properties)
        energy = found["energy"]
        silver = energy.new_zeros(num_structures(batch))
        silver = silver.index_add(0, batch["batch"], (batch["numbers"] == SILVER).to(energy))
        other = 1 - silver.clamp(max=1)
        if self.training:
            self.seen += 1
            energy = energy * (1 + 1e-3 * torch.rand(()))
        faults = {
            "prediction": lambda: energy / other,
            "gradient": lambda: energy + (self.gain * other).sqrt() - 1,
            "spike": lambda: energy + 1e6 * silver * self.gain * torch.ones(()),
        }
        return {**found, "energy": faults[self.fault]()}


def write(path: Path, silver: int | None = 4, num: int = 30) -> Path:
    """A file of structures; the first atom of one of them is silver."""
    structures = files.structures(num)
    if silver is not None:
        structures[silver].symbols[0] = "Ag"
    path.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(path, structures, format="extxyz")
    return path


def settings(fault: str, *more: str) -> list[str]:
    """Overrides of a training with the model."""
    return [f"model._target_={TARGET}", f"+model.fault={fault}", "check=false", *more]

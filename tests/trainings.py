"""Small trainings of the app, in this process: copper and gold, float64, a few steps an epoch."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from lightning_fabric import Fabric
from omegaconf import OmegaConf
from rich.console import Console

from pesloss import build
from pesloss.training import Alone, Fit, Fitted, prepare
from pesloss.training.launch import make_fabric
from tests import files

TINY = [
    "data=extxyz",
    "model.channels=4",
    "model.layers=1",
    "trainer.epochs=2",
    "trainer.precision=float64",
    "trainer.batch_size=8",
    "trainer.accelerator=cpu",
    "logger=csv",
]

EVERYTHING = [
    "loss=uncertainty",
    "optimizer=adamw",
    "scheduler=plateau",
    "scheduler.patience=0",
    "trainer.ema_decay=0.9",
    "trainer.warmup_steps=3",
    "trainer.batch_size=4",
    "trainer.accumulate=2",
]
"""Settings with which every part of a training has a state."""


def configured(folder: Path, *overrides: str, num: int = 30) -> dict[str, Any]:
    """The config of a training on a file that is written beside its folder."""
    path = folder.parent / "data.xyz"
    if not path.exists():
        files.write(path, num)
    loggers = [] if "~logger" in overrides else ["logger=csv"]
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        config = compose("train", [*TINY[:-1], f"data.train={path}", *loggers, *overrides])
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return plain


def prepared(folder: Path, *overrides: str, fabric: Fabric | None = None, num: int = 30) -> Fit:
    """Everything before the first step; what was said is in ``fit.said``."""
    folder.mkdir(exist_ok=True)
    config = configured(folder, *overrides, num=num)
    if fabric is None:
        fabric = make_fabric(build(config["trainer"]))
        fabric.launch()
    console = Console(file=io.StringIO(), width=200)
    fit = prepare(config, fabric, folder, console)
    fit.__dict__["said"] = console
    return fit


def run(fit: Fit) -> Fitted:
    """Its steps, logged."""
    with fit.loggers:
        fit.loggers.start(fit.folder, fit.about["config"], fit.progress.step)
        return Alone(fit).run(fit.__dict__["said"])


def trained(folder: Path, *overrides: str, fabric: Fabric | None = None, num: int = 30) -> tuple[Fit, Fitted]:
    """A whole training, and how it ended."""
    fit = prepared(folder, *overrides, fabric=fabric, num=num)
    return fit, run(fit)


def said(fit: Fit) -> str:
    """What a person would have read."""
    return fit.__dict__["said"].file.getvalue()


def rows(path: Path) -> list[dict[str, float]]:
    """A table of numbers."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b

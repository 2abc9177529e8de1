"""The same sweep, done in different ways."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pesloss.report.sweep.reading import read_sweep

WEIGHTS = (0.01, 0.037, 0.14, 0.52, 1.9, 7.2, 27.0, 100.0)
DELTAS = (0.01, 0.1)
"""Weights of the forces beside 1 of the energies, evenly on a logarithm; Huber deltas in eV/atom and eV/Å."""
WEIGHT, DELTA = "loss.weights.forces", "loss.huber_delta"
CUTOFF, BATCH, RATE = 4.0, 10, 2e-3
COMPILED, PEER, SWEEP = "pesloss compiled", "graph-pes, a process each", "sweep"
TRAIN = (sys.executable, "-m", "pesloss.train")

Commands = list[list[str]]


class Setting(NamedTuple):
    """A point of the sweep."""

    weight: float
    delta: float

    def __str__(self) -> str:
        return f"{self.weight:g}, {self.delta:g}"


SETTINGS = [Setting(*values) for values in itertools.product(WEIGHTS, DELTAS)]


class Best(NamedTuple):
    """The setting with the lowest error of the forces on the validation structures.

    Args:
        setting: which.
        error: mean absolute error of the components, meV/Å.
    """

    setting: str
    error: float


@dataclass(frozen=True)
class Task:
    """What is swept: files and length of the trainings.

    Args:
        folder: where everything is written; absolute, as the files.
        train: training structures.
        val: validation structures.
        epochs: of each training.
        fractions: of the epochs after which halving drops settings.
    """

    folder: Path
    train: Path
    val: Path
    epochs: int
    fractions: Sequence[float]


@dataclass(frozen=True)
class Case:
    """A way to do the sweep.

    Args:
        name: who trains, and how: ``pesloss compiled, batched``.
        settings: those that are trained; a sample of all where each is a process of its own.
        commands: to be run one after the other; they write into a folder.
        best: the best setting that is found in that folder; ``None`` of a sample.
    """

    name: str
    settings: Sequence[Setting]
    commands: Callable[[Task, Path], Commands]
    best: Callable[[Path], Best | None]

    @property
    def is_compiled(self) -> bool:
        """Whether there is a compiler, which takes its time at the first."""
        return COMPILED in self.name


def spread(num: int) -> list[Setting]:
    """So many settings, spread over all of them.

    Example:
        >>> [str(setting) for setting in spread(2)]
        ['0.01, 0.01', '100, 0.1']
    """
    last = len(SETTINGS) - 1
    return [SETTINGS[round(k * last / max(num - 1, 1))] for k in range(num)]


def all_cases(peer: str | None, sample: int) -> list[Case]:
    """Every way, processes of their own first: graph-pes', ours, and ours compiled."""
    some = spread(sample)
    cases = [Case(PEER, some, _peer_loop(peer, some), lambda folder: None)] if peer else []
    for code, own in (("pesloss", []), (COMPILED, ["trainer.compile=true"])):
        batched = [*own, "hydra/launcher=batched"]
        cases += [
            Case(f"{code}, a process each", some, _shell_loop(some, own), partial(_best_run, some)),
            Case(f"{code}, one process", SETTINGS, _multirun(own), _best_job),
            Case(f"{code}, batched", SETTINGS, _multirun(batched), _best_job),
        ]
    halving = _multirun(["trainer.compile=true", "hydra/launcher=batched"], halving=True)
    return [*cases, Case(f"{COMPILED}, batched and halved", SETTINGS, halving, _best_job)]


def _best_job(folder: Path) -> Best:
    """The best job of a sweep, by its record; those that were dropped did not get so far."""
    jobs = [job for job in read_sweep(folder / SWEEP).jobs if job.state == "finished"]
    best = min(jobs, key=lambda job: job.errors[job.score])
    return Best(str(Setting(best.swept[WEIGHT], best.swept[DELTA])), best.errors[best.score])


def _best_run(settings: Sequence[Setting], folder: Path) -> Best | None:
    """The best of runs on their own, if all were run."""
    if len(settings) < len(SETTINGS):
        return None
    errors = [_score(folder / f"run-{place}") for place in range(len(settings))]
    return Best(str(settings[errors.index(min(errors))]), min(errors))


def _score(folder: Path) -> float:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["score"]["value"]


def _shell_loop(settings: Sequence[Setting], own: Sequence[str]) -> Callable[[Task, Path], Commands]:
    def commands(task: Task, folder: Path) -> Commands:
        return [
            [
                *(*TRAIN, *_ours(task), *own, f"{WEIGHT}={one.weight}", f"{DELTA}={one.delta}"),
                f"hydra.run.dir={folder / f'run-{place}'}",
            ]
            for place, one in enumerate(settings)
        ]

    return commands


def _multirun(own: Sequence[str], halving: bool = False) -> Callable[[Task, Path], Commands]:
    swept = [f"{WEIGHT}={','.join(map(str, WEIGHTS))}", f"{DELTA}={','.join(map(str, DELTAS))}"]

    def commands(task: Task, folder: Path) -> Commands:
        dropping = [f"sweep.halving.fractions={list(task.fractions)}"] if halving else []
        return [[*TRAIN, "-m", *_ours(task), *own, *dropping, *swept, f"hydra.sweep.dir={folder / SWEEP}"]]

    return commands


def _ours(task: Task) -> list[str]:
    return [
        *("data=files", f"data.train={task.train}", f"data.val={task.val}", "data.test_fraction=0"),
        *("loss=huber", "loss.weights.stress=0", f"optimizer.lr={RATE}", "logger=csv"),
        *("model.channels=32", "model.layers=2", f"model.cutoff={CUTOFF}"),
        *(f"trainer.batch_size={BATCH}", f"trainer.epochs={task.epochs}"),
    ]


def _peer_loop(python: str, settings: Sequence[Setting]) -> Callable[[Task, Path], Commands]:
    """The loop of graph-pes' documentation (``docs/source/cli/graph-pes-train/complete-docs.rst``)."""
    program = str(Path(python).with_name("graph-pes-train"))
    deltas = ("loss/energy/+PerAtomEnergyLoss/metric/+Huber", "loss/forces/+PropertyLoss/metric/+Huber")

    def commands(task: Task, folder: Path) -> Commands:
        config = folder / "graph-pes.yaml"
        config.write_text(yaml.safe_dump(_peer_config(task, folder)), encoding="utf-8")
        return [
            [
                *(program, str(config), f"loss/forces/+PropertyLoss/weight={one.weight}"),
                *(f"{where}/delta={one.delta}" for where in deltas),
            ]
            for one in settings
        ]

    return commands


def _peer_config(task: Task, folder: Path) -> Mapping[str, Any]:
    """The same data, network, loss, batches and optimizer in graph-pes' words."""
    files = {
        name: {"+file_dataset": {"path": str(path), "cutoff": CUTOFF}}
        for name, path in (("train", task.train), ("valid", task.val))
    }
    huber = {"+Huber": {"delta": DELTAS[0]}}
    return {
        "model": {
            "offset": "+LearnableOffset()",
            "painn": {"+PaiNN": {"channels": 32, "layers": 2, "cutoff": CUTOFF}},
        },
        "data": files,
        "loss": {
            "energy": {"+PerAtomEnergyLoss": {"metric": huber, "weight": 1.0}},
            "forces": {"+PropertyLoss": {"property": "forces", "metric": huber, "weight": 1.0}},
        },
        "fitting": {
            "optimizer": {"name": "Adam", "lr": RATE},
            "trainer_kwargs": {"max_epochs": task.epochs, "accelerator": "auto"},
            "loader_kwargs": {"batch_size": BATCH, "num_workers": 0, "persistent_workers": False},
        },
        "general": {"root_dir": str(folder / "graph-pes"), "progress": "logged"},
        "wandb": None,
    }

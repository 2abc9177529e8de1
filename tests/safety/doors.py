"""Every way by which what a stranger wrote comes in, opened as an attacker would have it opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import pesloss
from pesloss import checkpoint
from pesloss.checkpoint import BEST, LAST
from pesloss.checks.postmortem import rebuilt
from pesloss.cli import resumed_arguments
from pesloss.explain import explain
from pesloss.recipes import from_config
from pesloss.show import show
from tests.test_evaluate import evaluated
from tests.trainings import trained

Node = Any


def trained_run(folder: Path) -> Path:
    """Folder of a tiny training, whose checkpoints attackers change."""
    trained(folder / "run", "trainer.epochs=1", "data.cache=null", num=18)
    return folder / "run"


def edited(run: Path, folder: Path, **changes: Any) -> Path:
    """A copy of its checkpoints with other entries, in a folder of its own."""
    folder.mkdir(exist_ok=True)
    for name in (BEST, LAST):
        torch.save({**checkpoint.read(run / name), **changes}, folder / name)
    return folder


def config_of(run: Path, **changes: Any) -> dict[str, Any]:
    """The config of the training with other nodes."""
    return {**checkpoint.read(run / BEST)["config"], **changes}


def build(run: Path, folder: Path, node: Node) -> None:
    pesloss.build(node)


def build_interpolated(run: Path, folder: Path, node: Node) -> None:
    pesloss.build(OmegaConf.create({"evil": node, "loss": "${evil}"}).loss)


def load_model(run: Path, folder: Path, node: Node) -> None:
    pesloss.load(edited(run, folder, config=config_of(run, model=node)))


def load_loss(run: Path, folder: Path, node: Node) -> None:
    """The loss is only built where it has to say how a property is derived."""
    properties = ["energy", "forces", "total_charge"]
    pesloss.load(edited(run, folder, config=config_of(run, loss=node), properties=properties))


def load_heads(run: Path, folder: Path, node: Node) -> None:
    pesloss.load(edited(run, folder, heads=["energy", node]))


def evaluate_data(run: Path, folder: Path, node: Node) -> None:
    evaluated(edited(run, folder, config=config_of(run, data=node)), folder)


def explain_loss(run: Path, folder: Path, node: Node) -> None:
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        config = compose("explain", ["~loss"])
    explain(OmegaConf.merge(OmegaConf.create(OmegaConf.to_container(config)), {"loss": node}))


def explain_trained(run: Path, folder: Path, node: Node) -> None:
    folder = edited(run, folder, config=config_of(run, loss=node))
    explain_checkpoint(folder)


def explain_data(run: Path, folder: Path, node: Node) -> None:
    explain_checkpoint(edited(run, folder, config=config_of(run, data=node)))


def explain_checkpoint(folder: Path) -> None:
    """``python -m pesloss.explain model.ckpt``, in this process."""
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        explain(compose("explain", [f"checkpoint='{folder}'", "~loss"]))


def recipe(run: Path, folder: Path, node: Node) -> None:
    from_config("graph_pes", {"loss": node})


def resume(run: Path, folder: Path, node: Node) -> None:
    """The node on the command line of the run; Hydra would merge it into the config."""
    word = f"++loss={_written(node)}"
    arguments = resumed_arguments([f"resume={edited(run, folder, overrides=[word])}"])
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        config = compose("train", [one for one in arguments if not one.startswith("hydra.")])
    pesloss.build(config.loss)


def _written(node: Node) -> str:
    """A node as a value on Hydra's command line."""
    if isinstance(node, Mapping):
        return "{" + ",".join(f"{key}:{_written(value)}" for key, value in node.items()) + "}"
    if isinstance(node, list):
        return "[" + ",".join(map(_written, node)) + "]"
    return str(node).lower() if isinstance(node, bool) else "'" + str(node).replace("'", r"\'") + "'"


def replay(run: Path, folder: Path, node: Node) -> None:
    """The file that a step is written to that went wrong."""
    rebuilt({**checkpoint.read(run / BEST), "config": config_of(run, loss=node)})


DOORS: Mapping[str, Callable[[Path, Path, Node], None]] = {
    "build": build,
    "build, interpolated": build_interpolated,
    "load, model": load_model,
    "load, loss": load_loss,
    "load, heads": load_heads,
    "evaluate": evaluate_data,
    "explain": explain_loss,
    "explain, loss of a checkpoint": explain_trained,
    "explain, data of a checkpoint": explain_data,
    "recipe": recipe,
    "replay": replay,
    "resume": resume,
}
"""Doors that build what a stranger's node describes."""

READERS: Mapping[str, Callable[[Path], Any]] = {
    "read": checkpoint.read,
    "load": pesloss.load,
    "show": lambda path: show([str(path)]),
    "show as JSON": lambda path: show([str(path)], format="json"),
    "difference": lambda path: show([str(path), str(path)]),
    "command": lambda path: show([str(path)], command=True),
    "resume": lambda path: resumed_arguments([f"resume={_as_run(path)}"]),
}
"""Doors that read a stranger's file."""


def _as_run(path: Path) -> Path:
    """The folder of a file that goes by the name of the last checkpoint."""
    if path.name != LAST and path.exists():
        path.with_name(LAST).write_bytes(path.read_bytes())
    return path.parent

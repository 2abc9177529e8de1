"""An app like ours in miniature: ``python -m toy_app.app`` with ``tests`` on the path."""

from __future__ import annotations

import os
import signal
import weakref
from pathlib import Path
from typing import ClassVar

from omegaconf import DictConfig, OmegaConf

from pesloss.building import build
from pesloss.cli import hydra_app


def misspell() -> None:
    raise KeyError("Unknown property 'enrgy'; did you mean 'energy'?")


class Model:
    alive: ClassVar[weakref.WeakSet[Model]] = weakref.WeakSet()

    def __init__(self) -> None:
        self.alive.add(self)


def diverge() -> None:
    model = Model()
    try:
        raise FloatingPointError(f"{model} diverged")
    except FloatingPointError as error:
        raise RuntimeError("Training stopped.") from error


FAILURES = {
    "diverge": lambda config: diverge(),
    "build": lambda config: build(config.loss.terms.forces),
    "key": lambda config: {}["spam"],
    "sentence": lambda config: misspell(),
    "file": lambda config: Path(config.data.file).read_text(),
    "missing": lambda config: config.data.file,
    "variable": lambda config: config.data.root,
    "interpolation": lambda config: OmegaConf.to_container(config.loss, resolve=True),
    "interrupt": lambda config: os.kill(os.getpid(), signal.SIGINT),
}


def task(config: DictConfig) -> None:
    print("full error:", os.environ.get("HYDRA_FULL_ERROR"))
    print("models alive:", len(Model.alive))
    if config.fail is not None:
        FAILURES[config.fail](config)
    print("done", config.optimizer.lr)


main = hydra_app(task, config_path="pkg://toy_app.conf")

if __name__ == "__main__":
    main()

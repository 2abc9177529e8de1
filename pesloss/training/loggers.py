"""Where the numbers of a run go: files beside the checkpoints, and Weights & Biases."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any


class Logger(ABC):
    """Keeps the numbers of one run; a context manager, so that it is closed after an error too."""

    def start(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Told once where the run writes and what it was configured with."""

    @abstractmethod
    def log(self, kind: str, row: Mapping[str, float]) -> None:
        """Keep a row of numbers; rows of one kind (``steps``, ``epochs``) have the same names."""

    def summarize(self, metrics: Mapping[str, Any]) -> None:
        """Keep the final metrics."""

    def finish(self, failed: bool) -> None:
        """Close what is open."""


class CSV(Logger):
    """One table a kind of row: ``steps.csv`` and ``epochs.csv``, written as the run goes on."""

    def __init__(self) -> None:
        self._folder = Path()
        self._tables: dict[str, tuple[IO[str], csv.DictWriter[str]]] = {}

    def start(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._folder = folder

    def log(self, kind: str, row: Mapping[str, float]) -> None:
        if kind not in self._tables:
            file = (self._folder / f"{kind}.csv").open("w", newline="", encoding="utf-8")
            self._tables[kind] = file, csv.DictWriter(file, row)
            self._tables[kind][1].writeheader()
        file, table = self._tables[kind]
        table.writerow(row)
        if kind != "steps":  # an epoch is worth a write to the disk, a step is not
            for open_file, _ in self._tables.values():
                open_file.flush()

    def finish(self, failed: bool) -> None:
        for file, _ in self._tables.values():
            file.close()
        self._tables = {}


class WandB(Logger):
    """A run of Weights & Biases, finished even if the training fails.

    Args:
        project: name of the project.
        mode: ``online``, ``offline`` (files to be synced later) or ``disabled``.
        name: name of the run; one is made up if it is ``None``.
        group: name of the sweep the run belongs to.
        tags: words to find it by.
    """

    def __init__(
        self,
        project: str = "pesloss",
        *,
        mode: str = "offline",
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        self._options = {"project": project, "mode": mode, "name": name, "group": group, "tags": list(tags)}
        self._run: Any = None

    def start(self, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            **self._options,
            dir=folder,
            config=dict(config),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, kind: str, row: Mapping[str, float]) -> None:
        self._run.log({name if name in ("step", "epoch") else f"{kind}/{name}": v for name, v in row.items()})

    def summarize(self, metrics: Mapping[str, Any]) -> None:
        self._run.summary.update(json.loads(json.dumps(metrics)))

    def finish(self, failed: bool) -> None:
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
            self._run = None


class Loggers:
    """Several loggers as one, open while the ``with`` block runs."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = loggers

    def start(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Start them all."""
        for logger in self._loggers:
            logger.start(folder, config)

    def log(self, kind: str, row: Mapping[str, float]) -> None:
        """Give them all a row of numbers."""
        for logger in self._loggers:
            logger.log(kind, row)

    def summarize(self, metrics: Mapping[str, Any]) -> None:
        """Give them all the final metrics."""
        for logger in self._loggers:
            logger.summarize(metrics)

    def __enter__(self) -> Loggers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for logger in self._loggers:
            logger.finish(failed=error is not None)

"""Where the numbers of a run go: files beside the checkpoints, Weights & Biases, TensorBoard."""

from __future__ import annotations

import csv
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

Config = Mapping[str, Any]
LONGEST_NAME = 128
"""Characters of the name of a run that Weights & Biases takes."""


class JobName(NamedTuple):
    """What a job of a sweep is called.

    Args:
        varied: what tells it from the other jobs, as ``seed=1,loss.weights.forces=10``.
        sweep: name of the sweep.
    """

    varied: str
    sweep: str


class Logger(ABC):
    """Keeps the numbers of one run; a context manager, so that it is closed after an error too."""

    def start(self, folder: Path, config: Config, step: int = 0, job: JobName | None = None) -> None:
        """Told once where the run writes and what it was configured with.

        Args:
            folder: of the run.
            config: as plain data.
            step: what a resumed run has done already; rows of later steps are forgotten.
            job: what the run is called in its sweep; ``None`` outside one.
        """

    @abstractmethod
    def log(self, kind: str, row: Mapping[str, float]) -> None:
        """Keep a row of numbers, ``step`` among them; each kind (``steps``, ``epochs``) has its own table."""

    def summarize(self, metrics: Mapping[str, Any]) -> None:
        """Keep the final metrics."""

    def finish(self, failed: bool) -> None:
        """Close what is open."""


class CSV(Logger):
    """One table a kind of row: ``steps.csv`` and ``epochs.csv``, each row on disk as soon as it is logged.

    A resumed run keeps the rows up to its step. A row with a new name gives the table a new column, which is
    empty in the rows before.
    """

    def __init__(self) -> None:
        self._folder, self._step = Path(), 0
        self._tables: dict[str, _Table] = {}

    def start(self, folder: Path, config: Config, step: int = 0, job: JobName | None = None) -> None:
        self._folder, self._step = folder, step

    def log(self, kind: str, row: Mapping[str, float]) -> None:
        if kind not in self._tables:
            begin = int(row["step"]) if self._step else 0
            self._tables[kind] = _Table(self._folder / f"{kind}.csv", begin)
        self._tables[kind].add(row)

    def finish(self, failed: bool) -> None:
        for table in self._tables.values():
            table.close()
        self._tables = {}


class _Table:
    """A CSV file that rows are added to, after those of an earlier run of the steps before ``begin``.

    The first new row tells that step: an epoch that was logged and not yet saved is logged again.
    """

    def __init__(self, path: Path, begin: int) -> None:
        self._path = path
        rows = [row for row in self._rows() if int(row["step"]) < begin] if begin else []
        self._columns = list(rows[0]) if rows else []
        self._write(rows)

    def add(self, row: Mapping[str, float]) -> None:
        new = [name for name in row if name not in self._columns]
        if new:
            self.close()
            self._columns += new
            self._write(self._rows())
        self._writer.writerow(row)

    def close(self) -> None:
        self._file.close()

    def _rows(self) -> list[dict[str, str]]:
        """What stands in the file, without a last line that was cut off."""
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(line for line in file if line.endswith("\n")))

    def _write(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Replace the file, whole or not at all, and leave it open at its end."""
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            if self._columns:
                writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self._path)
        self._file = self._path.open("a", buffering=1, newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, self._columns)


class WandB(Logger):
    """A run of Weights & Biases, finished even if the training fails, and continued when that is resumed.

    A job of a sweep has what varies in its name, and its sweep as its group. Numbers are plotted by ``step``.
    The name of the run on the server stays in ``wandb_id`` in the run's folder; a job that is tried again is
    the same run there.

    Args:
        project: name of the project.
        mode: ``online``, ``offline`` (files to be synced later) or ``disabled``.
        name: name of the run; one is made up if it is ``None``.
        group: name of what the run belongs to; by default the sweep, if there is one.
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
        self._options = {"project": project, "mode": mode, "tags": list(tags)}
        self._name, self._group = name, group
        self._run: Any = None

    def start(self, folder: Path, config: Config, step: int = 0, job: JobName | None = None) -> None:
        import wandb

        known = folder / "wandb_id"
        name = " ".join(filter(None, (self._name, job and job.varied)))
        self._run = wandb.init(
            **self._options,
            id=known.read_text(encoding="utf-8").strip() if (step or job) and known.exists() else None,
            resume="allow",
            name=name[:LONGEST_NAME] or None,
            group=self._group or (job and job.sweep),
            dir=folder,
            config=dict(config),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
        known.write_text(f"{self._run.id}\n", encoding="utf-8")
        self._run.define_metric("*", step_metric="step")

    def log(self, kind: str, row: Mapping[str, float]) -> None:
        self._run.log({name if name in ("step", "epoch") else f"{kind}/{name}": v for name, v in row.items()})

    def summarize(self, metrics: Mapping[str, Any]) -> None:
        self._run.summary.update(json.loads(json.dumps(metrics)))

    def finish(self, failed: bool) -> None:
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
            self._run = None


class TensorBoard(Logger):
    """Event files for TensorBoard, in the folder ``tensorboard`` of the run.

    Raises:
        ImportError: when the run starts, if the package ``tensorboard`` is not installed.
    """

    def __init__(self) -> None:
        self._writer: Any = None

    def start(self, folder: Path, config: Config, step: int = 0, job: JobName | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError(
                "The logger TensorBoard needs the package 'tensorboard', which is not installed: "
                "pip install 'pesloss[tensorboard]', or choose logger=csv."
            ) from None
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, kind: str, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(f"{kind}/{name}", value, int(row["step"]))

    def summarize(self, metrics: Mapping[str, Any]) -> None:
        self._writer.add_text("metrics", f"```\n{json.dumps(metrics, indent=2, ensure_ascii=False)}\n```")

    def finish(self, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Loggers:
    """Several loggers as one, open while the ``with`` block runs."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = loggers

    def start(self, folder: Path, config: Config, step: int = 0, job: JobName | None = None) -> None:
        """Start them all."""
        for logger in self._loggers:
            logger.start(folder, config, step, job)

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
        with ExitStack() as stack:  # one that cannot finish keeps none of the others from it
            for logger in self._loggers:
                stack.callback(logger.finish, failed=error is not None)

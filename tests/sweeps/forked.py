"""Sweeps of the app in children of this process, which need not import anything anew; nothing is plotted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from pesloss.report import final as report
from pesloss.sweeps.records import Record, Sweep, read
from pesloss.train import main
from tests import files
from tests.test_resume import counted, final, fork, kill
from tests.trainings import TINY

SETTINGS = [*TINY, "data.train=data.xyz", "check=false", "trainer.accelerator=cpu"]
FOLDER = "hydra.sweep.dir=sweep"

Moment = tuple[object, str, int]
"""What is called, and the how manieth time."""


class Sweeping:
    """A sweep that runs in a child.

    Args:
        folder: where its command is given; beside it lies the file of the data.
        overrides: its words, after those that make a tiny training.
        at: the moment at which something happens.
        instead: what happens then; by default the process is killed.
    """

    def __init__(
        self, folder: Path, *overrides: str, at: Moment | None = None, instead: Callable[..., None] = kill
    ) -> None:
        folder.mkdir(exist_ok=True)
        if not (folder / "data.xyz").exists():
            files.write(folder / "data.xyz", 30)
        self._child = fork()
        self._said = folder / f"said_{self._child or os.getpid()}.txt"
        if self._child == 0:
            try:
                _run(folder, overrides, at, instead, self._said)
            finally:
                os._exit(99)

    def wait(self) -> Ended:
        """Until it has ended."""
        _, status = os.waitpid(self._child, 0)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return Ended(code, self._said.read_text(encoding="utf-8"))


class Ended(NamedTuple):
    """A sweep that has ended.

    Args:
        status: of its process; minus the signal that killed it.
        said: on stdout and stderr.
    """

    status: int
    said: str


def swept(
    folder: Path, *overrides: str, at: Moment | None = None, instead: Callable[..., None] = kill
) -> Ended:
    """A sweep in a child, to its end."""
    return Sweeping(folder, *overrides, at=at, instead=instead).wait()


def jobs(folder: Path) -> Mapping[str, Record]:
    """The jobs of the sweep in a folder, by what they were set to."""
    sweep = Sweep(folder / "sweep")
    found = {job.folder: read(sweep.folder / job.folder) for job in sweep.jobs()}
    return {name.rpartition("-")[0]: record for name, record in found.items() if record is not None}


def results(folder: Path) -> dict[str, object]:
    """Everything that the jobs of a sweep leave, but the time it took and the attempts."""
    return {path.parent.name: _of_job(path.parent) for path in sorted((folder / "sweep").glob("*/job.json"))}


def _of_job(folder: Path) -> dict[str, object]:
    metrics = json.loads((folder / "metrics.json").read_text())
    record = json.loads((folder / "job.json").read_text())
    kept = {name: record[name] for name in ("state", "overrides", "swept", "config")}
    for timed in (metrics, record["result"]):
        timed.pop("seconds")
    return {**final(folder), **kept, "metrics": metrics, "result": record["result"]}


def _run(
    folder: Path, overrides: Sequence[str], at: Moment | None, instead: Callable[..., None], path: Path
) -> None:
    os.chdir(folder)
    sys.argv = ["pesloss-train", "-m", *SETTINGS, FOLDER, *overrides]
    if at is not None:
        owner, name, number = at
        setattr(owner, name, counted(getattr(owner, name), number, instead))
    for name in ("parity_plots", "learning_curves"):
        setattr(report, name, mock.Mock())
    said = path.open("w", encoding="utf-8", buffering=1)
    with said, redirect_stdout(said), redirect_stderr(said):
        code = _code(main)
    os._exit(code)


def _code(program: Callable[[], None]) -> int:
    try:
        program()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0

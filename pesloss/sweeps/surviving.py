"""A launcher around any launcher of Hydra: launches what is left of a sweep, reads results from its records.

Jobs that have ended are answered from their folders, and nothing of these is touched. Whatever happens to a
launcher, each job that was asked for ends as a result or as a failure with a sentence. A launcher that trains
in this process says so by ``in_this_process = True`` and calls ``told.ended`` after each job; of the jobs of
all others, but Hydra's basic one, this process tells by polling their records.
"""

from __future__ import annotations

import logging
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext
from omegaconf import OmegaConf, open_dict

from pesloss.processes import started_by_launcher
from pesloss.sweeps import sweepers, told
from pesloss.sweeps.composing import Remembering, placed
from pesloss.sweeps.job import recorded
from pesloss.sweeps.names import config_hash, swept
from pesloss.sweeps.records import (
    FAILED,
    INTERRUPTED,
    RUNNING,
    Planned,
    Record,
    RecordError,
    Sweep,
    changed_files,
    of_config,
)
from pesloss.sweeps.running import Job, is_killed, is_running

T = TypeVar("T")

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
"""By name, because Hydra may load a plugin twice: then its class is two."""
WAITED = 2.0
"""Seconds between two looks whether jobs still run whose launcher has given up."""


class JobError(RuntimeError):
    """A job of a sweep has no result; it was shown when it failed, and is in the table at the end."""

    _pesloss_shown = True


@dataclass(frozen=True)
class Asked:
    """A job that a sweeper asks for.

    Args:
        number: in the order of the sweeper.
        words: its command line, with its folder.
        folder: where it is.
        config: hash of its config.
        planned: what the sweep notes of it.
    """

    number: int
    words: list[str]
    folder: Path
    config: str
    planned: Planned

    def record(self) -> Record | RecordError | None:
        """What is known of it, or why nothing can be."""
        try:
            return of_config(self.folder, self.config)
        except RecordError as error:
            return error

    def is_killed(self) -> bool:
        """Whether its process is gone without a word."""
        return is_killed(self.folder, self.record())


class Session:
    """One run of a sweep's command.

    Args:
        command: words of the command line.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command, self.name = list(command), uuid.uuid4().hex[:8]
        self.asked: dict[Path, Asked] = {}

    def conclude(self) -> int:
        """Tell which jobs have no result, and why; the exit status of the command."""
        failures = [(job.planned, reason) for job in self.asked.values() if (reason := _reason(job))]
        waiting = [job for job in self.asked.values() if job.record() is None]
        if failures:
            told.failed(failures)
        if waiting:
            number = f"{len(waiting)} of {len(self.asked)} jobs"
            told.say(f"sweep: {number} were not begun; give the same command again.")
        return 1 if failures or waiting else 0


@contextmanager
def surviving_sweeps(command: Sequence[str]) -> Iterator[Session]:
    """Within it, the launchers and sweepers of Hydra survive what happens to their jobs."""
    session = Session(command)
    launcher, sweeper = Plugins.instantiate_launcher, Plugins.instantiate_sweeper

    def instantiate_launcher(
        self: Plugins, hydra_context: HydraContext, task_function: Any, config: Any
    ) -> Launcher:
        loader = Remembering(hydra_context.config_loader)
        context = replace(hydra_context, config_loader=loader)
        return Surviving(launcher(self, context, task_function, config), loader, config, session)

    def instantiate_sweeper(
        self: Plugins, *, hydra_context: HydraContext, task_function: Any, config: Any
    ) -> Sweeper:
        def make(config: Any) -> Sweeper:
            made = sweeper(self, hydra_context=hydra_context, task_function=task_function, config=config)
            # the launcher composes the config of every job before it launches any, as this would
            made.validate_batch_is_legal = lambda batch: None
            return made

        return sweepers.surviving(make, config)

    Plugins.instantiate_launcher, Plugins.instantiate_sweeper = instantiate_launcher, instantiate_sweeper
    try:
        with told.launching():
            yield session
    except KeyboardInterrupt:
        if session.asked:
            told.say("The same command goes on with the sweep.")
        raise
    except Exception:
        session.conclude()
        raise
    finally:
        Plugins.instantiate_launcher, Plugins.instantiate_sweeper = launcher, sweeper


class Surviving(Launcher):
    """Launches the jobs of a sweep that are left to do.

    Args:
        launcher: what runs jobs, set up.
        loader: composes the config of a job.
        config: composed for the whole sweep.
        session: the run of the command.
    """

    def __init__(self, launcher: Launcher, loader: Remembering, config: Any, session: Session) -> None:
        self._launcher, self._loader, self._config, self._session = launcher, loader, config, session
        self._folder = str(config.hydra.sweep.dir)
        self._is_basic = config.hydra.launcher._target_ == BASIC_LAUNCHER
        self._is_here = self._is_basic or getattr(launcher, "in_this_process", False)
        self._tried: set[Path] = set()
        process = started_by_launcher()
        self._is_first = process is None or process.rank == 0
        self._sweep = Sweep(Path(self._folder).absolute())

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: Any) -> None:
        """The launcher within was set up where it was made."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        numbered = enumerate(job_overrides, start=initial_job_idx)
        known = self._sweep.by_config()
        jobs = [self._asked(list(overrides), number, known) for number, overrides in numbered]
        unique = list({job.folder: job for job in jobs}.values())
        if self._is_first:
            self._session.asked |= {job.folder: job for job in unique}
            planned = [job.planned for job in unique]
            self._sweep.add(planned, command=self._session.command, session=self._session.name)
        left = self._agreed([self._is_left(job) for job in unique])
        if self._is_first:
            self._introduce(unique)
        self._run([job for job, is_left in zip(unique, left, strict=True) if is_left])
        records = self._agreed([job.record() for job in jobs])
        return [self._returned(job, record) for job, record in zip(jobs, records, strict=True)]

    def _asked(self, overrides: list[str], number: int, known: Mapping[str, Sequence[Planned]]) -> Asked:
        """A job in the folder that has the same config already, even if less varied then, or in its own."""
        config = self._loader.load_sweep_config(self._config, overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        code, values = config_hash(config), swept(config.hydra)
        before = (job.folder for job in known.get(code, ()) if job.agrees(values))
        name = next(before, None) or _subdir(config)
        planned = Planned(name, list(config.hydra.overrides.task), values, self._session.name)
        words = placed(config, overrides, self._folder, name)
        if self._is_here:
            self._loader.remember(words, config)
        return Asked(number, words, self._sweep.folder / name, code, planned)

    def _is_left(self, job: Asked) -> bool:
        """Whether this process is to launch a job, as the records stand."""
        record = job.record()
        if job.folder in self._tried or isinstance(record, RecordError) or self._is_over():
            return False
        if record is None or record.state == INTERRUPTED:
            return True
        if record.state == FAILED:
            return bool(self._wish("retry_failed"))
        return is_killed(job.folder, record)

    def _is_over(self) -> bool:
        """Whether no further job may begin."""
        return bool(self._wish("fail_fast")) and self._sweep.has_failed(self._sweep.session)

    def _introduce(self, jobs: Sequence[Asked]) -> None:
        """How many jobs there are; what is done but may be out of date; what others do."""
        records = [(job, record) for job in jobs if isinstance(record := job.record(), Record)]
        told.started(len(jobs), sum(record.has_ended for _, record in records), self._folder)
        for job in jobs:
            if isinstance(error := job.record(), RecordError):
                told.say(f"sweep: {told.settings(job.planned.swept)}: {error}")
        for job, record in records:
            what = told.settings(job.planned.swept)
            if record.has_ended and (changed := changed_files(record)):
                told.say(f"sweep: {what} was trained on other data: {', '.join(changed)} changed since.")
            if record.state == RUNNING and is_running(job.folder):
                process = f"process {record.process.get('pid')} on {record.process.get('host')}"
                told.say(f"sweep: {what} is left to {process}, which runs it now.")

    def _run(self, jobs: Sequence[Asked]) -> None:
        if self._is_basic:
            with _quiet(BASIC_LAUNCHER.rpartition(".")[0]):
                for job in jobs:
                    if self._agreed(self._is_left(job)) and (error := self._launched([job])):
                        raise error
            return
        with nullcontext() if self._is_here or not jobs else told.watched(self._sweep):
            self._persist(jobs)

    def _persist(self, jobs: Sequence[Asked]) -> None:
        """Launch until each job has ended; one whose process dies twice has failed."""
        before = [job.record() for job in jobs]
        error = self._launched(jobs)
        if error is not None:
            _wait(jobs)
        for job in [job for job in jobs if job.is_killed()]:
            self._launched([job])
            if job.is_killed():
                _fail(job, ChildProcessError("Its process was killed."), self._sweep.session)
        waiting = [job for job, record in zip(jobs, before, strict=True) if job.record() == record]
        waiting = [] if self._is_over() else waiting
        if error is not None and waiting:
            if len(waiting) == len(jobs):
                raise error
            self._persist(waiting)

    def _launched(self, jobs: Sequence[Asked]) -> Exception | None:
        """Have the launcher run some jobs; the error with which it gave up, if it did."""
        if not jobs:
            return None
        self._tried |= {job.folder for job in jobs}
        before = [job.record() for job in jobs]
        try:
            returns = self._launcher.launch([job.words for job in jobs], jobs[0].number)
        except Exception as error:
            return error
        for job, record, made in zip(jobs, before, returns, strict=True):
            # its process could not even begin it
            if self._is_first and made.status == JobStatus.FAILED and job.record() == record:
                _fail(job, made._return_value, self._sweep.session)
        return None

    def _returned(self, job: Asked, record: Record | RecordError | None) -> JobReturn:
        """What a sweeper is told of a job: its objective, or its failure."""
        made = JobReturn(overrides=job.planned.overrides, working_dir=str(job.folder))
        made.status = JobStatus.COMPLETED
        if isinstance(record, Record) and record.has_ended:
            made.return_value = recorded(record, self._wish("objective"))
        elif self._config.hydra.sweeper._target_ == BASIC_SWEEPER:
            made.return_value = None  # it would stop at an error, and the next batch would not begin
        else:
            made.status = JobStatus.FAILED
            made.return_value = JobError(_reason(job) or "It was not begun, or another process runs it.")
        return made

    def _wish(self, name: str) -> Any:
        return OmegaConf.select(self._config, f"sweep.{name}")

    def _agreed(self, value: T) -> T:
        """What the first of the processes that train together says; the others do the same."""
        if started_by_launcher() is None:
            return value
        from pesloss.training import Trainer, launch  # torch waits until it is needed

        settings = self._config.trainer
        return launch(Trainer(devices=settings.devices, accelerator=settings.accelerator), _first, value)


def command_line() -> list[str]:
    """The words that this program was started with."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = [Path(sys.argv[0]).name] if spec is None else ["python", "-m", spec.name]
    return [*program, *sys.argv[1:]]


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """A launcher that is given one job after the other need not say each time that it launches one."""
    log = logging.getLogger(name)

    def shown(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Launching")

    log.addFilter(shown)
    try:
        yield
    finally:
        log.removeFilter(shown)


def _first(fabric: Any, value: T) -> T:
    return fabric.broadcast(value)


def _subdir(config: Any) -> str:
    """Name of a job's folder, as Hydra finds it when it runs the job."""
    state = HydraConfig.instance()
    before = state.cfg
    try:
        state.set_config(config)
        return str(config.hydra.sweep.subdir)
    finally:
        state.cfg = before


def _reason(job: Asked) -> str | None:
    """Why a job has no result, if it was begun and is not running."""
    record = job.record()
    if isinstance(record, RecordError):
        return str(record)
    if record is None or record.has_ended:
        return None
    if record.error is not None:
        return record.error["message"]
    is_stopped = record.state == INTERRUPTED or not is_running(job.folder)
    return "It was interrupted; the same command goes on with it." if is_stopped else None


def _wait(jobs: Sequence[Asked]) -> None:
    """Until none of these jobs runs any more: their launcher has given up, not their processes."""
    while any(is_running(job.folder) for job in jobs):
        time.sleep(WAITED)


def _fail(job: Asked, error: BaseException, session: str) -> None:
    """Record a failure that the job itself could not record."""
    planned = job.planned
    about = {"overrides": planned.overrides, "swept": planned.swept, "config": job.config}
    if (begun := Job.begin(job.folder, **about, session=session)) is not None:
        begun.fail(error)

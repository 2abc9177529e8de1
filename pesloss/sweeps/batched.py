"""Many jobs of a sweep in one process: each ends in its own folder as if it had been trained alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, TypeAlias

import torch
from rich.console import Console

from pesloss import build
from pesloss.data import LoadedData
from pesloss.losses import Property
from pesloss.sweeps import told
from pesloss.sweeps.computing import Compiled, Computing, Stacked
from pesloss.sweeps.grouping import common, grouped, predicted
from pesloss.sweeps.halving import Candidate, Decisions, Halving
from pesloss.sweeps.job import Given, Result, Train, check_objective, logged_as, with_objective
from pesloss.sweeps.running import Job
from pesloss.sweeps.together import Outcome, Together
from pesloss.terminal import WIDTH
from pesloss.training import Fit, Fitted, Interrupted, Trainer, prepare
from pesloss.training.console import Watch
from pesloss.training.launch import make_fabric
from pesloss.training.metrics import scores
from pesloss.training.prepare import Config, read
from pesloss.training.requests import Place
from pesloss.training.stops import Signals

CONSOLE = "console.txt"
"""What a job would have said on a terminal of its own, in its folder."""
QUIET = 10.0
"""Seconds between two lines that say how far jobs are."""

Conclude: TypeAlias = Callable[[Fit, Fitted, Console], Result]


@dataclass(frozen=True)
class Means:
    """What training many jobs takes from elsewhere.

    Args:
        alone: trains a job that needs several processes.
        conclude: evaluates a training that has ended.
        failed: told at once of a job that has failed, with its error.
        copies: models that are computed together at most; ``None`` for all.
    """

    alone: Train
    conclude: Conclude
    failed: Callable[[Given, Exception], None]
    copies: int | None = None


def train_jobs(jobs: Sequence[Given], means: Means) -> None:
    """Train jobs, those together that can be, and record what comes of each.

    Raises:
        ValueError: if ``sweep.halving`` makes no sense.
        Interrupted: after a signal to stop; everything is saved.
    """
    jobs = [given for given in jobs if _is_computable(given, means)]
    if not jobs:
        return
    halving = Halving(**jobs[0].config["sweep"]["halving"])
    whole = grouped(jobs, [common(job.config) for job in jobs])
    groups = [part for group in whole for part in _parts(group, means)]
    reading = ReadOnce()
    if halving.fractions:
        _halved(groups, reading, means, halving)
        return
    for group in groups:
        with Signals() as signals, Batch(group, reading, means, signals) as batch:
            batch.advance()


def _is_computable(given: Given, means: Means) -> bool:
    """Whether the config of a job can be computed; if not, that is its failure."""
    try:
        _ = given.config
    except Exception as error:
        if (job := given.begin()) is not None:
            with _told(given, means), job:
                raise error
        return False
    return True


@contextmanager
def _told(given: Given, means: Means) -> Iterator[None]:
    """Whatever came of a job within it is told; an error is the job's own, and the others go on."""
    try:
        yield
    except Exception as error:
        means.failed(given, error)
    finally:
        told.ended(given.sweep, given.folder)


def _parts(group: Sequence[Given], means: Means) -> list[Sequence[Given]]:
    """Jobs that are computed together; as one compiled function in turn it may be any number."""
    size = len(group) if means.copies is None or group[0].config["trainer"]["compile"] else means.copies
    return [group[start : start + size] for start in range(0, len(group), size)]


def _halved(groups: Sequence[Sequence[Given]], reading: ReadOnce, means: Means, halving: Halving) -> None:
    """All groups come to a rung before anybody goes on from it."""
    decisions = Decisions(groups[0][0].sweep.folder, halving)
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        batches = [stack.enter_context(Batch(group, reading, means, signals)) for group in groups]
        for rung, fraction in enumerate(halving.fractions):
            for batch in batches:
                batch.advance(lambda fit, rung=rung: halving.epoch(rung, fit.trainer.epochs))
            at_rung = {name: job for batch in batches for name, job in batch.candidates().items()}
            stopped = decisions.decide(rung, at_rung) if at_rung else set()
            if stopped:
                share = f"{len(stopped)} of {len(at_rung)} jobs"
                told.say(f"sweep: {share} stop after {fraction:.0%} of their epochs.")
            for batch in batches:
                batch.drop(stopped)
        for batch in batches:
            batch.advance()


class ReadOnce:
    """Data that several jobs ask for are read once."""

    def __init__(self) -> None:
        self._known: dict[str, LoadedData] = {}

    def __call__(
        self, node: Config, labels: Mapping[str, Property], cutoff: float, dtype: torch.dtype
    ) -> LoadedData:
        key = repr((node, sorted(labels.items()), cutoff, dtype))
        if key not in self._known:
            self._known[key] = read(node, labels, cutoff, dtype)
        return self._known[key]


class Member(NamedTuple):
    """A job that trains.

    Args:
        given: what it is.
        job: its record.
        console: where it says what it would say alone.
        context: closes loggers, record and console.
    """

    given: Given
    job: Job
    console: Console
    context: ExitStack


class Batch:
    """Jobs with the same network and the same batches, from their configs to their results.

    A context manager: what has not ended when it is left is recorded as interrupted.

    Args:
        jobs: of one group.
        reading: reads data that nobody has read.
        means: what comes from elsewhere.
        signals: reasons to stop.
    """

    def __init__(self, jobs: Sequence[Given], reading: ReadOnce, means: Means, signals: Signals) -> None:
        self._jobs, self._reading, self._means, self._signals = jobs, reading, means, signals
        self._trainer: Trainer = build(jobs[0].config["trainer"])
        self._members: dict[Fit, Member] = {}
        self._dropped: set[Fit] = set()
        self._teams: list[Together] = []
        self._interrupted: Interrupted | None = None
        self._said = time.monotonic()

    def __enter__(self) -> Batch:
        if self._trainer.devices > 1:
            for given in self._jobs:
                self._alone(given)
            return self
        self._fabric = make_fabric(self._trainer)
        self._fabric.launch()
        for given in self._jobs:
            self._prepare(given)
        fits = list(self._members)
        for team in grouped(fits, [predicted(fit) for fit in fits]):
            watches = {fit: self._watch(fit) for fit in team}
            self._teams.append(Together(watches, self._computing(), self._signals, self._end, self._passed))
        return self

    def advance(self, pause: Callable[[Fit], int] | None = None) -> None:
        """Train to the end, or to where trainings pause.

        Raises:
            Interrupted: after a signal to stop; everything is saved.
        """
        if self._trainer.threads is not None:
            torch.set_num_threads(self._trainer.threads)
        for team in self._teams:
            team.advance(pause)
        if self._interrupted is not None:
            raise self._interrupted

    def candidates(self) -> dict[str, Candidate]:
        """Jobs that pause, by the name of their folder."""
        return {
            member.given.folder.name: Candidate(member.given.swept, fit.progress.best_score, fit.validated)
            for fit, member in self._members.items()
        }

    def drop(self, names: set[str]) -> None:
        """Stop some of the jobs that pause; their folders hold what they have come to."""
        for team in self._teams:
            for fit in team.fits:
                if self._members[fit].given.folder.name in names:
                    self._dropped.add(fit)
                    progress = f"{fit.progress.epochs} of {fit.trainer.epochs} epochs"
                    team.dismiss(fit, f"others were better after {progress}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self._members.values():
            member.job.interrupt()
            member.context.__exit__(kind, error, trace)

    def _alone(self, given: Given) -> None:
        """A job in processes of its own."""
        if (job := given.begin()) is None:
            return
        with _told(given, self._means), job:
            result = self._means.alone(given.continued(job), given.folder, given.overrides)
            job.finish(with_objective(result, given.wish("objective")))

    def _prepare(self, given: Given) -> None:
        """Everything before the first step of a job; an error is its own."""
        if (job := given.begin()) is None:
            return
        with _told(given, self._means), ExitStack() as context:
            context.enter_context(job)
            file = context.enter_context((given.folder / CONSOLE).open("a", encoding="utf-8"))
            console = Console(file=file, width=WIDTH)
            config = given.continued(job)
            place = (self._fabric, given.folder, console, given.overrides)
            fit = prepare(config, *place, reading=self._reading)
            known = scores(fit.compared) if fit.data.val is not None else ()
            check_objective(given.wish("objective"), known)
            context.enter_context(fit.loggers)
            fit.loggers.start(given.folder, config, fit.progress.step, logged_as(given.folder))
            fit.told = job.progress
            self._members[fit] = Member(given, job, console, context.pop_all())

    def _watch(self, fit: Fit) -> Watch:
        done = fit.progress.step + fit.progress.skipped
        return Watch(fit.trainer.epochs, fit.steps_of_epoch, self._members[fit].console, done=done)

    def _computing(self) -> Computing:
        if self._trainer.compile:
            torch.compiler.reset()  # the groups of a sweep are many models of one code
            return Compiled()
        return Stacked(told.say)

    def _end(self, fit: Fit, outcome: Outcome) -> None:
        """A training has ended: evaluate it, or record why there is nothing to evaluate."""
        given, job, console, context = self._members.pop(fit)
        try:
            with _told(given, self._means), context:
                if isinstance(outcome, BaseException):
                    raise outcome
                result = self._means.conclude(fit, outcome, console)
                result = with_objective(result, given.wish("objective"))
                (job.drop if fit in self._dropped else job.finish)(result)
        except Interrupted as stop:
            self._interrupted = stop

    def _passed(self, place: Place) -> None:
        """Say now and then how far the jobs are."""
        now = time.monotonic()
        if now - self._said > QUIET and self._members:
            self._said = now
            epochs = max(fit.trainer.epochs for fit in self._members)
            told.say(f"sweep: {len(self._members)} jobs together, {place.epochs} of {epochs} epochs done")

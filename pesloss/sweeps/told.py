"""What a person sees of a sweep: a line at its start and after each job, a table of failures at its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from pesloss.sweeps.records import (
    DROPPED,
    FAILED,
    INTERRUPTED,
    RUNNING,
    Planned,
    Record,
    RecordError,
    Sweep,
)
from pesloss.sweeps.running import is_killed
from pesloss.terminal import clock, open_console

POLLED = 3.0
"""Seconds between two looks at the records of jobs that run elsewhere."""


@dataclass(frozen=True)
class State:
    """Where a sweep stands.

    Args:
        jobs: those that its command asks for, with what is known of each.
    """

    jobs: Sequence[tuple[Planned, Record | RecordError | None]]

    @classmethod
    def of(cls, sweep: Sweep) -> State:
        """As the records say; what was killed waits to begin again."""
        found = [(job, sweep.record(job)) for job in sweep.jobs(sweep.session)]
        return cls([(job, None if is_killed(sweep.folder / job.folder, r) else r) for job, r in found])

    @property
    def done(self) -> list[tuple[Planned, Record]]:
        """Jobs with a result."""
        return [(job, r) for job, r in self.jobs if isinstance(r, Record) and r.has_ended]

    def number(self, state: str) -> int:
        """How many jobs are in a state."""
        return sum(isinstance(r, Record) and r.state == state for _, r in self.jobs)

    def sentence(self, session: str) -> str:
        """How many are done, have failed and run."""
        failed = [r for _, r in self.jobs if isinstance(r, RecordError) or _has_failed(r, session)]
        parts = [f"{len(self.done)} of {len(self.jobs)} done"]
        parts += [f"{len(failed)} failed"] if failed else []
        parts += [f"{running} running"] if (running := self.number(RUNNING)) else []
        return f"sweep: {', '.join(parts)}"

    def best(self) -> str:
        """The best job so far and its score; empty if no job has any, or they have different ones."""
        scored = [(job, r.result["score"]) for job, r in self.done if r.result and _value(r) is not None]
        if len({score["name"] for _, score in scored}) != 1:
            return ""
        job, score = min(scored, key=lambda one: one[1]["value"])
        return f"best {_number(score)} by {settings(job.swept)}"

    def left(self, session: str) -> str:
        """How long it will take yet, from the jobs of this run of the command."""
        seconds = [_seconds(r) for _, r in self.done if r.session == session]
        waiting = sum(r is None for _, r in self.jobs) + self.number(INTERRUPTED)
        running = self.number(RUNNING)
        if not seconds or not waiting + running:
            return ""
        mean = sum(seconds) / len(seconds)
        return f"{clock(mean * (waiting + running / 2) / max(running, 1))} left"


@contextmanager
def launching() -> Iterator[None]:
    """Within it, what is told of the jobs that this process runs is told here; others run them silently."""
    global _is_launching
    _is_launching = True
    try:
        yield
    finally:
        _is_launching = False


_is_launching = False


def started(jobs: int, done: int, folder: str) -> None:
    """How many jobs there are, how many of them are done already, and where."""
    what = "1 job" if jobs == 1 else f"{jobs} jobs"
    say(f"sweep: {what}, {done} done, {jobs - done} to do, in {folder}")


def ended(sweep: Sweep, folder: Path) -> None:
    """What came of a job, and where the sweep stands; said by the process that launches the jobs alone.

    Nothing is said of one that runs.
    """
    if _is_launching:
        name = folder.resolve().relative_to(sweep.folder.resolve()).as_posix()
        _tell(sweep, State.of(sweep), [name])


@contextmanager
def watched(sweep: Sweep) -> Iterator[None]:
    """While jobs run in other processes, tell of each that ends."""
    over = threading.Event()
    before = {job.folder: _state(record) for job, record in State.of(sweep).jobs}

    def look() -> None:
        state = State.of(sweep)
        now = {job.folder: _state(record) for job, record in state.jobs}
        new = [name for name in now if now[name] != before.get(name) and now[name] not in (None, RUNNING)]
        before.update(now)
        if new:
            _tell(sweep, state, new)

    def poll() -> None:
        while not over.wait(POLLED):
            look()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()


def settings(swept: Mapping[str, Any]) -> str:
    """What a job has been set to.

    Example:
        >>> settings({"loss.weights.forces": 10, "seed": 1})
        'loss.weights.forces=10 seed=1'
    """
    return " ".join(f"{key}={value}" for key, value in swept.items()) or "the only job"


def say(text: str) -> None:
    """Something that whoever watches a sweep should know."""
    open_console().print(text, soft_wrap=True, highlight=False, markup=False)


def failed(failures: Sequence[tuple[Planned, str]]) -> None:
    """A table of jobs without a result: what they were set to, why, and where."""
    table = Table(title="Jobs of the sweep without a result", title_justify="left")
    for column in ("job", "error", "folder"):
        table.add_column(column, overflow="fold")
    for job, error in failures:
        table.add_row(*map(escape, (settings(job.swept), error, job.folder)))
    open_console().print(table)


def _tell(sweep: Sweep, state: State, names: Sequence[str]) -> None:
    session = sweep.session
    for job, record in state.jobs:
        if job.folder in names and record is not None and _state(record) != RUNNING:
            what = f"{settings(job.swept)}: {_outcome(record)}"
            parts = (state.sentence(session), what, state.best(), state.left(session))
            say("; ".join(filter(None, parts)))


def _outcome(record: Record | RecordError) -> str:
    """What came of a job, in words."""
    if isinstance(record, RecordError):
        return str(record)
    if record.result is not None:
        dropped = " when it was dropped" if record.state == DROPPED else ""
        score = record.result["score"]
        return f"{score['name']} {_number(score)}{dropped} in {record.result['seconds']:.3g} s"
    if record.state == FAILED and record.error is not None:
        return f"failed: {record.error['message'].splitlines()[0]}"
    return record.state


def _number(score: Mapping[str, Any]) -> str:
    """A score with its unit."""
    return "no score" if score["value"] is None else f"{score['value']:.4g} {score['unit']}".rstrip()


def _value(record: Record) -> float | None:
    return None if record.result is None else record.result["score"]["value"]


def _seconds(record: Record) -> float:
    """How long a job took, its preparation and its plots included."""
    if record.started is None or record.ended is None:
        return 0.0
    times = (datetime.fromisoformat(time) for time in (record.ended, record.started))
    return next(times).timestamp() - next(times).timestamp()


def _state(record: Record | RecordError | None) -> str | None:
    return record.state if isinstance(record, Record) else None


def _has_failed(record: Record | RecordError | None, session: str) -> bool:
    return isinstance(record, Record) and record.state == FAILED and record.session == session

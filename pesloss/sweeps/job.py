"""One job of a sweep: recorded as it begins and ends, gone on with from its checkpoint, scored.

``pesloss.train.train`` calls :func:`conducted` in a sweep. What trains several jobs in one process does the
same for each: ``Given.begin``, ``Given.continued``, the training, :func:`with_objective`, ``Job.finish``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from pesloss.names import unknown
from pesloss.processes import started_by_launcher
from pesloss.sweeps import told
from pesloss.sweeps.names import config_hash, swept
from pesloss.sweeps.records import SWEEP, Record, Sweep, of_config, read
from pesloss.sweeps.running import Job

if TYPE_CHECKING:
    from pesloss.training import JobName

Result: TypeAlias = dict[str, Any]
"""Of a training: ``score`` (name, value, unit, epoch), ``seconds``, ``ended``, ``metrics``, ``files``, and
whether it is ``complete`` or its time was over."""
Objective: TypeAlias = float | list[float] | None
Train: TypeAlias = Callable[[dict[str, Any], Path, list[str]], Result]
"""From a job's config as plain data, its folder and its command line to what came of it."""


@dataclass(frozen=True)
class Given:
    """A job of a sweep as Hydra has composed it.

    Args:
        composed: its config.
        folder: of the job; it exists.
        overrides: its command line.
        swept: values of what varies.
        sweep: that it belongs to.
    """

    composed: Any
    folder: Path
    overrides: list[str]
    swept: dict[str, Any]
    sweep: Sweep

    @classmethod
    def of(cls, config: Any, hydra: Any) -> Given:
        """From a composed config and Hydra's part of it."""
        folder, sweep = Path(hydra.runtime.output_dir), Sweep(Path(hydra.runtime.cwd) / hydra.sweep.dir)
        return cls(config, folder, list(hydra.overrides.task), swept(hydra), sweep)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config as plain data.

        Raises:
            OmegaConfBaseException: if a value is missing, or cannot be computed.
        """
        return plain(self.composed)

    def wish(self, name: str) -> Any:
        """A setting of the sweep; ``None`` if the config has no such part."""
        return OmegaConf.select(self.composed, f"sweep.{name}")

    def begin(self) -> Job | None:
        """Take the job, unless it has ended, is another process's, or none is to begin after a failure."""
        session = self.sweep.session
        if self.wish("fail_fast") and self.sweep.has_failed(session):
            return None
        about = {"overrides": self.overrides, "swept": self.swept, "config": config_hash(self.composed)}
        return Job.begin(self.folder, **about, session=session)

    def continued(self, job: Job) -> dict[str, Any]:
        """The config; if the job was begun before and has a checkpoint, it goes on from that."""
        from pesloss.training.resume import has_run  # torch waits until it is needed

        again = job.record.attempts > 1 and self.config.get("resume") is None and has_run(job.folder)
        return {**self.config, "resume": True} if again else self.config

    def recorded(self) -> Objective:
        """What a sweeper is to minimise, if the job has ended."""
        return recorded(of_config(self.folder, config_hash(self.composed)), self.wish("objective"))


def conducted(config: Any, train: Train) -> Objective:
    """Train the job of a sweep that Hydra runs now, and record it; what a sweeper is to minimise.

    A job that another process has is left to it; one that it has ended by now is not trained again.

    Raises:
        ValueError: if jobs are to be stopped by others, which takes jobs that train together.
        Exception: what the training raises; it is recorded as the job's failure.
    """
    given, process = Given.of(config, HydraConfig.get()), started_by_launcher()
    if given.wish("halving.fractions"):
        raise ValueError("sweep.halving compares jobs while they train: choose hydra/launcher=batched too.")
    if process is not None and process.rank > 0:  # the first process keeps the records
        return objective(train(given.config, given.folder, given.overrides), given.wish("objective"))
    if (job := given.begin()) is None:
        return given.recorded()
    try:
        with job:
            result = train(given.continued(job), given.folder, given.overrides)
            result = with_objective(result, given.wish("objective"))
            job.finish(result)
    finally:
        told.ended(given.sweep, given.folder)
    return result["objective"]


def plain(config: Any) -> dict[str, Any]:
    """A composed config as plain data.

    Raises:
        OmegaConfBaseException: if a value is missing, or cannot be computed.
    """
    content: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return content


def with_objective(result: Result, wish: str | Sequence[str] | None) -> Result:
    """A result that says what a sweeper is to minimise.

    Raises:
        ValueError: if that is not a finite number.
    """
    found = objective(result, wish)
    names = wish if isinstance(wish, Sequence) and not isinstance(wish, str) else [wish]
    values = found if isinstance(found, list) else [found]
    for name, value in zip(names, values, strict=True):
        if value is not None and not isfinite(value):
            what = name or result["score"]["name"]
            raise ValueError(f"The job's {what} on the validation structures is {value}, at its best epoch.")
    return {**result, "objective": found}


def objective(result: Mapping[str, Any], wish: str | Sequence[str] | None) -> Objective:
    """What a sweeper is to minimise of a result: the score, or errors of the best epoch by their names.

    Example:
        >>> result = {"score": {"value": 21.3}, "metrics": {"val/energy/mae [meV/atom]": 1.2}}
        >>> objective(result, None), objective(result, ["energy/mae"])
        (21.3, [1.2])
    """
    if wish is None:
        return result["score"]["value"]
    if isinstance(wish, str):
        return error_on_validation(result["metrics"], wish)[0]
    return [error_on_validation(result["metrics"], name)[0] for name in wish]


def logged_as(folder: Path) -> JobName | None:
    """What the loggers of a job call it, from its record; ``None`` outside a sweep."""
    from pesloss.training import JobName

    record = read(folder)
    if record is None:
        return None
    sweep = next((parent for parent in folder.parents if (parent / SWEEP).exists()), folder.parent)
    return JobName(told.settings(record.swept), sweep.name)


def recorded(record: Record | None, wish: str | Sequence[str] | None) -> Objective:
    """What a sweeper is to minimise of a job that has ended; ``None`` of any other."""
    return None if record is None or record.result is None else objective(record.result, wish)


def error_on_validation(metrics: Mapping[str, float], name: str) -> tuple[float, str]:
    """An error of ``metrics.json`` on the validation structures, and its unit.

    Raises:
        ValueError: if there is none of that name.
    """
    known = {column.partition(" [")[0]: column for column in metrics if "=" not in column}
    if f"val/{name}" not in known:
        there = [key.removeprefix("val/") for key in known if key.startswith("val/")]
        raise ValueError(f"sweep.objective: {unknown('error on the validation structures', name, there)}")
    column = known[f"val/{name}"]
    return metrics[column], column.partition(" [")[2].removesuffix("]")


def check_objective(wish: str | Sequence[str] | None, known: Collection[str]) -> None:
    """What a sweep is to minimise exists.

    Args:
        wish: ``sweep.objective``.
        known: names of the errors on the validation structures; none if there are no such structures.

    Raises:
        ValueError: naming what does not.
    """
    for name in [wish] if isinstance(wish, str) else wish or []:
        if name not in known:
            raise ValueError(f"sweep.objective: {unknown('error on the validation structures', name, known)}")

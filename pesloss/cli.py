"""Hydra apps that answer a mistake in a sentence: what was asked for, what there is, what is nearest."""

from __future__ import annotations

import atexit
import functools
import gc
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from pesloss.mistakes import explain
from pesloss.names import quoted, visible
from pesloss.processes import started_by_launcher
from pesloss.safety.hydra_targets import checked_configs
from pesloss.units import in_ascii

OURS = ("pesloss", "__main__")
"""Packages whose errors may be told in a sentence."""
_FULL_ERROR = "HYDRA_FULL_ERROR"
_SHOWN = "_pesloss_shown"
_UNIT = re.compile(r"(\+*[\w.]*\b(?:targets|units)\.[^=]+=)([^'\"\[{]*)")
"""A unit without quotes on the command line, where Hydra reads ASCII alone."""

log = logging.getLogger(__name__)


def hydra_app(
    task: Callable[[DictConfig], Any],
    config_name: str = "train",
    config_path: str = "pkg://pesloss.conf",
    arguments: Callable[[list[str]], list[str]] = list,
    *,
    sweeps: bool = False,
) -> Callable[[], None]:
    """Command-line program that composes a config and runs a task with it, once or for every job of a sweep.

    It is ``hydra.main`` with other error messages. A mistake of the user's ends in a sentence on stderr and
    status 1 (or the ``status`` of the error), Ctrl-C in status 130; any other error keeps its traceback. In a
    sweep the error of a job is shown as soon as the job fails, and the job's log file gets the whole
    traceback. With ``HYDRA_FULL_ERROR=1`` nothing is changed. Of the processes that ``torchrun`` or ``srun``
    starts, only the first has an output folder.

    Args:
        task: what to do with the config of one job; its result is what a sweeper optimizes.
        config_name: name of the primary config in ``config_path``.
        config_path: where the configs are, as ``hydra.main`` takes it.
        arguments: what to make of the command line's arguments before Hydra reads them.
        sweeps: whether the jobs of a sweep are recorded by the task, see :mod:`pesloss.sweeps`: then the same
            command goes on with its sweep, and the status is 1 if a job has no result.
    """
    ours = {*OURS, task.__module__.partition(".")[0]}

    @functools.wraps(task)
    def main() -> None:
        run = functools.partial(
            hydra.main, version_base="1.3", config_path=config_path, config_name=config_name
        )
        # or Python looks through all of torch for garbage before it ends; what ties processes together has to
        # be taken apart
        if started_by_launcher() is None:
            atexit.register(gc.freeze)
        wished = os.environ.get(_FULL_ERROR)
        job = task if wished == "1" else _job(task, wished, ours)
        try:
            # otherwise Hydra prints the error and keeps it to itself
            with _environment(_FULL_ERROR, "1"), checked_configs():
                return (_run_sweeps if sweeps else _run)(run()(job), arguments)
        except KeyboardInterrupt as stop:
            sys.stderr.write(f"\n{str(stop) or 'Interrupted.'}\n")
            sys.exit(getattr(stop, "status", 130))
        except BrokenPipeError:
            # whoever reads has read enough, as `head` does; Python would complain once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as error:
            if wished == "1":
                raise
            if not hasattr(error, _SHOWN):
                sys.stderr.write(f"{report(error, ours)}\n")
            sys.exit(getattr(error, "status", 1))

    return main


def _run(program: Callable[[], None], arguments: Callable[[list[str]], list[str]]) -> None:
    with _arguments(arguments):
        program()


def _run_sweeps(program: Callable[[], None], arguments: Callable[[list[str]], list[str]]) -> None:
    """The same, and a sweep survives what happens to its jobs."""
    from pesloss.sweeps.names import with_fixed_keys
    from pesloss.sweeps.surviving import command_line, surviving_sweeps

    with surviving_sweeps(command_line()) as session:
        _run(program, lambda words: with_fixed_keys(arguments(words)))
    if status := session.conclude():
        sys.exit(status)


def resumed_arguments(arguments: list[str]) -> list[str]:
    """``resume=FOLDER`` means: what that run was started with, what is given now, and its folder.

    Choosing an option of a group anew forgets what was set in the option before. What a stranger's checkpoint
    could do harm with is refused unless it is given now.

    Raises:
        FileNotFoundError: if there is no such run.
        CheckpointError: if the run was started with something that a checkpoint may not decide.
    """
    folders = [a.partition("=")[2] for a in arguments if a.startswith("resume=")]
    if not folders or folders[-1].lower() in ("", "null", "true", "false"):
        return arguments
    folder = Path(folders[-1])
    folder = folder.parent if folder.suffix == ".ckpt" else folder
    old = _overrides(folder)
    given = [a for a in arguments if not a.startswith("resume=")]
    keys = {_key(a) for a in given if "=" in a}
    kept = [override for override in old if not _is_replaced(_key(override), keys)]
    _check_overrides(folder, kept)
    _check_links(folder)
    return [*kept, *given, f"hydra.run.dir={quoted(str(folder))}", "resume=true"]


def first_means(key: str, arguments: list[str], *others: str) -> list[str]:
    """A path in the first place stands for a key of the config, and for what else belongs to it.

    Example:
        >>> first_means("data.train", ["my.xyz", "loss=mae"], "data=files")
        ['data=files', "data.train='my.xyz'", 'loss=mae']
        >>> first_means("data.train", ["loss=mae"], "data=files")
        ['loss=mae']
    """
    first = arguments[0] if arguments else "-"
    if first.startswith(("-", "+", "~")) or ("=" in first and not Path(first).exists()):
        return arguments
    return [*others, f"{key}={quoted(first)}", *arguments[1:]]


def chosen_device(config: Mapping[str, Any]) -> str:
    """Where an app computes, as its ``device`` says, with as many ``threads`` as it asks for."""
    import torch  # waits until it is needed

    if config["threads"] is not None:
        torch.set_num_threads(config["threads"])
    if config["device"] != "auto":
        return config["device"]
    return "cuda" if torch.cuda.is_available() else "cpu"


def _overrides(folder: Path) -> list[str]:
    """What a run was started with; Hydra's own note of it is of the last attempt, which may have failed."""
    from pesloss.checkpoint import LAST, CheckpointError, read  # torch waits until it is needed

    if not (folder / LAST).exists():
        raise FileNotFoundError(f"There is no training to resume in {folder}: it has no {LAST}.")
    overrides = read(folder / LAST).get("overrides")
    if not isinstance(overrides, list) or not all(isinstance(one, str) for one in overrides):
        raise CheckpointError(
            f"{folder / LAST} does not tell the command line that its run was started with, as one from "
            "Python has none: start that program again with resume: true in its config."
        )
    return overrides


def _check_overrides(folder: Path, overrides: Iterable[str]) -> None:
    from pesloss.checkpoint import CheckpointError
    from pesloss.safety.overrides import objection

    for override in overrides:
        if reason := objection(override):
            raise CheckpointError(
                f"The training in {folder} was started with {override!r}, which no checkpoint decides: "
                f"{reason}. Give it again beside resume=..., or another value, if it is what you want."
            )


def _check_links(folder: Path) -> None:
    """What a run writes to lies in its folder, not where a link leads to that came with the folder."""
    from pesloss.checkpoint import CheckpointError

    home = folder.resolve()
    for path in (*folder.glob("*"), *folder.glob(".*"), *folder.glob(".hydra/*")):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise CheckpointError(
                f"{path} is a link that leads out of the folder to be resumed; remove it first."
            )


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _is_replaced(old: str, keys: set[str]) -> bool:
    groups = [key for key in keys if "." not in key]
    return old in keys or old == "resume" or any(old.startswith((f"{g}.", f"{g}/")) for g in groups)


@contextmanager
def _arguments(change: Callable[[list[str]], list[str]]) -> Iterator[None]:
    """The command line as Hydra is to see it; all processes but the first write to a passing folder."""
    before, process = sys.argv, started_by_launcher()
    with ExitStack() as stack:
        sys.argv = [before[0], *map(_units_in_ascii, change(before[1:]))]
        if process is not None and process.rank > 0:
            aside = stack.enter_context(tempfile.TemporaryDirectory())
            sys.argv += [f"hydra.run.dir={aside}", f"hydra.sweep.dir={aside}"]
        try:
            yield
        finally:
            sys.argv = before


def _units_in_ascii(argument: str) -> str:
    found = _UNIT.fullmatch(argument)
    return argument if found is None else f"{found[1]}{in_ascii(found[2])}"


def _job(
    task: Callable[[DictConfig], Any], wished: str | None, ours: set[str]
) -> Callable[[DictConfig], Any]:
    """The task, telling of its error while other jobs still run."""

    @functools.wraps(task)
    def job(config: Any) -> Any:
        try:
            # processes that the job starts see the user's environment
            with _environment(_FULL_ERROR, wished):
                return task(config)
        except Exception as error:
            _write_to_log_files(error)
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                sys.stderr.write(f"{report(error, ours, _job_name())}\n")
                setattr(error, _SHOWN, True)
                _release(error)
            raise

    return job


def _release(error: BaseException | None) -> None:
    """Free what a failed job held (models, tensors): Hydra keeps the error until the sweep ends."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _job_name() -> str:
    job = HydraConfig.get()
    return f" in job {job.job.num} ({' '.join(job.overrides.task)})"


def report(error: Exception, ours: Collection[str] = OURS, where: str = "") -> str:
    """What is told of an error: a sentence if it is a mistake of the user's, else its traceback."""
    sentence = explain(error, set(ours))
    if sentence is not None:
        return f"Error{where}: {visible(sentence.strip())}"
    trace = traceback.format_exception(type(error), error, _without_hydra(error.__traceback__))
    return f"Error{where}:\n{''.join(trace)}(Set {_FULL_ERROR}=1 to see Hydra's own frames.)"


def _without_hydra(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from the first frame that is neither Hydra's nor this module's; whole if there is none."""
    start = trace
    while start is not None:
        module = start.tb_frame.f_globals.get("__name__", "")
        if module != __name__ and module.partition(".")[0] != "hydra":
            return start
        start = start.tb_next
    return trace


def _write_to_log_files(error: Exception) -> None:
    """The whole traceback into the job's log file; the terminal gets its own message."""
    record = log.makeRecord(
        __name__,
        logging.ERROR,
        __file__,
        0,
        "The job failed.",
        (),
        (type(error), error, error.__traceback__),
    )
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.get(name)
    _set_variable(name, value)
    try:
        yield
    finally:
        _set_variable(name, before)


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value

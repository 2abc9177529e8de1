"""Train a potential: ``python -m pesloss.train loss=uncertainty``; ``--help`` lists the choices."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from rich.console import Console

from pesloss.cli import hydra_app, report, resumed_arguments
from pesloss.sweeps.job import (
    Objective,
    Result,
    check_objective,
    conducted,
    error_on_validation,
    logged_as,
    plain,
)
from pesloss.sweeps.records import file_stamps, note_epochs


def train(config: Any) -> Objective:
    """One job: from the composed config to checkpoints, metrics and plots in the folder of the run.

    Returns:
        The best score on the validation structures, or what a sweep has chosen for a sweeper to minimise.
    """
    # as the processes that it starts know it: this one may be called __main__
    from pesloss import train

    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        return conducted(config, train.launched)
    result = train.launched(plain(config), Path(job.runtime.output_dir), list(job.overrides.task))
    return result["score"]["value"]


def launched(config: dict[str, Any], folder: Path, overrides: list[str]) -> Result:
    """What came of a training, in as many processes as it asks for."""
    # torch waits until it is needed: --help and a misspelt option are answered without it
    from pesloss import build
    from pesloss.training import launch

    return launch(build(config["trainer"]), run, config, folder, overrides)


def run(fabric: Any, config: dict[str, Any], folder: Path, overrides: list[str]) -> Result:
    """The same in each of the processes that train together; they do what the first was asked to."""
    from pesloss.training import Alone, open_console, prepare
    from pesloss.training.metrics import scores

    config, folder, overrides = fabric.broadcast((config, folder, overrides))
    console = open_console()
    fit = prepare(config, fabric, folder, console, overrides)
    check_objective(config["sweep"]["objective"], scores(fit.compared) if fit.data.val is not None else ())
    if fabric.is_global_zero:
        fit.told = partial(note_epochs, folder)
    with fit.loggers:
        fit.loggers.start(folder, config, fit.progress.step, logged_as(folder))
        return concluded(fit, Alone(fit).run(console), console)


def concluded(fit: Any, fitted: Any, console: Console) -> Result:
    """Final errors of a training, told and kept; its loggers are still open."""
    from pesloss.report import conclude  # plots wait until there is something to plot
    from pesloss.training import MeanPredictor, about
    from pesloss.training.metrics import groups_of

    first = fit.fabric.is_global_zero
    metrics = conclude(
        {name: fit.predict(part) for name, part in fit.data.parts.items() if name != "train"},
        fit.compared,
        folder=fit.folder if first else None,
        console=console,
        title=f"Errors of epoch {fitted.best_epoch}; {fitted.ended}",
        groups=groups_of(fit.data.config_types, fit.data.datasets),
        mean=MeanPredictor(fit.compared, fit.about["means"]),
        about=fitted.as_dict(),
        loss=fit.loss,
        source=fit.data.source,
    )
    fit.loggers.summarize(metrics)
    if first:
        about.conclude(fit.folder, metrics)
    score, errors = metrics["score"], metrics["metrics"]
    unit = "" if score["value"] is None else error_on_validation(errors, score["name"])[1]
    return {
        "score": {**score, "unit": unit},
        "seconds": metrics["seconds"],
        "ended": metrics["ended"],
        "complete": fitted.complete,
        "metrics": errors,
        "files": file_stamps(file["file"] for file in fit.about["files"]),
    }


def together(jobs: Sequence[Any], copies: int | None = None) -> None:
    """Jobs of a sweep in one process; their launcher looks for this beside ``train``.

    Args:
        jobs: config and Hydra's part of it, of each.
        copies: models that are computed together at most; ``None`` for all.
    """
    from pesloss.sweeps.batched import Means, train_jobs
    from pesloss.sweeps.job import Given

    given = [Given.of(config, hydra) for config, hydra in jobs]
    train_jobs(given, Means(launched, concluded, _failed, copies))


def _failed(job: Any, error: Exception) -> None:
    """A job that trains with others has failed: its folder gets the traceback, the terminal a message."""
    with (job.folder / "train.log").open("a", encoding="utf-8") as file:
        traceback.print_exception(type(error), error, error.__traceback__, file=file)
    sys.stderr.write(f"{report(error, where=f' in job ({shlex.join(job.overrides)})')}\n")


train.together = together  # pyright: ignore[reportFunctionMemberAccess]
main = hydra_app(train, arguments=resumed_arguments, sweeps=True)

if __name__ == "__main__":
    main()

"""What a loss would learn from data, and what is wrong: ``python -m pesloss.check my.xyz loss=...``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from pesloss.cli import first_means, hydra_app
from pesloss.mistakes import explain

if TYPE_CHECKING:
    from rich.console import Console

    from pesloss.checks import Report, Subject
    from pesloss.losses import TotalLoss

CUTOFF = 3.0
"""In Å: every atom that is bonded has a neighbour within it."""


WIDTH = 150
"""Of the tables, where there is no terminal."""


class CheckError(ValueError):
    """The checks found what would make a training wrong; ``status`` is the exit status of the program."""

    status = 2


def check(config: Any) -> None:
    """One job: from a loss and data to a report on the terminal and in the folder of the job.

    Writes ``check.md``, ``check.html`` and ``check.json``; the exit status is 2 if there is an error, or, if
    ``strict``, a warning.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    # torch waits until it is needed: --help and a misspelt option are answered without it
    from pesloss.checks.rendering import show, write
    from pesloss.training import open_console

    folder, console = Path(HydraConfig.get().runtime.output_dir), open_console(WIDTH)
    report = _report(plain, console)
    show(report, console)
    paths = write(report, folder)
    console.print(
        f"Written to {paths[0].with_suffix('')}.md, .html and .json", highlight=False, soft_wrap=True
    )
    if report.errors or (plain["strict"] and report.of_level("warning")):
        raise CheckError(f"The checks found {report.verdict()}.")


def _report(config: dict[str, Any], console: Console) -> Report:
    from pesloss import build
    from pesloss.checks import Finding, Report, Subject

    loss = build(config["loss"])
    about = {"loss": ", ".join(loss.by_name)}
    try:
        subject = Subject(loss, _read(config, loss, console))
    except Exception as error:
        if (sentence := explain(error)) is None:
            raise
        return Report.of([Finding("error", "reading", sentence)], about)
    about["structures"] = ", ".join(f"{len(rows)} {name}" for name, rows in subject.splits.items())
    about["files"] = ", ".join(file.file for file in subject.data.report.files)
    about["reference energies"] = subject.data.references.note
    return dataclasses.replace(_checked(config, subject, console), about=about)


def _read(config: dict[str, Any], loss: TotalLoss, console: Console) -> Any:
    """The data as a training would read them, but that atoms may be close: a check says so."""
    import torch

    from pesloss import build
    from pesloss.data import Files
    from pesloss.training.console import watched_reading

    source = build(config["data"])
    if isinstance(source, Files):
        source = dataclasses.replace(source, min_distance=0.0)
    with watched_reading(console):
        return source.load(loss.labels, CUTOFF, torch.float64)


def _checked(config: dict[str, Any], subject: Subject, console: Console) -> Report:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from pesloss.checks import CHECKS, Report, check

    names = [name for name in config["checks"] or CHECKS if name not in config["skip"]]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("checks", total=len(names))
        report = check(subject, names, lambda name: bar.update(task, advance=1, description=name))
    if config["checkpoint"] is None:
        return report
    return Report.of([*report.findings, *report.tables, *_by_model(config["checkpoint"], subject)])


def _by_model(checkpoint: str, subject: Subject) -> Any:
    """What only a model can tell."""
    from pesloss import load
    from pesloss.checks.stress import stress_by_model

    return stress_by_model(subject, load(checkpoint))


def data_first(arguments: list[str]) -> list[str]:
    """``train.xyz`` in the first place means ``data=files data.train=train.xyz``.

    Example:
        >>> data_first(["train.xyz", "loss=normal"])
        ['data=files', "data.train='train.xyz'", 'loss=normal']
    """
    return first_means("data.train", arguments, "data=files")


main = hydra_app(check, config_name="check", arguments=data_first)

if __name__ == "__main__":
    main()

"""What a person watches while a potential trains: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from pesloss.data.progress import told
from pesloss.losses import Term, TotalLoss
from pesloss.terminal import clock
from pesloss.training.mixture import Mixture


class Watch:
    """Progress of a training: a bar with loss, score and time left; without a terminal, a line an epoch.

    Args:
        epochs: number of epochs.
        steps: steps of an epoch.
        console: where to write.
        done: steps that are done already, if the training is resumed.
        silent: whether to write nothing, as all ranks but the first do.
    """

    def __init__(
        self, epochs: int, steps: int, console: Console, *, done: int = 0, silent: bool = False
    ) -> None:
        self._epochs, self._steps, self._console = epochs, steps, console
        self._silent = silent
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            disable=silent or not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=epochs * steps, completed=done, text="")
        self._start = time.monotonic()
        self._before = self._done = done
        self._score = ""

    def step(self, loss: float | None) -> None:
        """A step is done, or was left out."""
        self._done += 1
        epoch = min((self._done - 1) // self._steps + 1, self._epochs)
        shown = "left out" if loss is None else f"{loss:.4g}"
        text = f"epoch {epoch}/{self._epochs}  loss {shown}  {self._score}"
        self._bar.update(self._task, advance=1, text=text)

    def epoch(self, number: int, loss: float, score: str) -> None:
        """An epoch is done; its mean loss and its score in words."""
        self._score = score
        if self._silent or self._console.is_terminal:
            return
        rate = (time.monotonic() - self._start) / max(self._done - self._before, 1)
        left = rate * (self._epochs * self._steps - self._done)
        line = f"epoch {number}/{self._epochs}  loss {loss:.4g}  {score}  {clock(left)} left"
        self._console.print(line, soft_wrap=True, highlight=False)

    def say(self, text: str) -> None:
        """Something that a person should know."""
        if not self._silent:
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def show(self, *tables: Table) -> None:
        """Numbers that a person should know."""
        for table in () if self._silent else tables:
            self._console.print(table)

    def __enter__(self) -> Watch:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


@contextmanager
def watched_reading(console: Console, *, silent: bool = False) -> Iterator[None]:
    """Shows on a terminal which file is read, and how many structures it has given so far."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    disabled = silent or not console.is_terminal
    with Progress(*columns, console=console, disable=disabled, transient=True) as bar:
        task = bar.add_task("reading")
        with told(lambda file, number: bar.update(task, description=f"reading {file}: {number} structures")):
            yield


def terms_table(loss: TotalLoss) -> Table:
    """What is minimised: each term with its first weight and its parts."""
    table = Table(title=f"{type(loss).__name__}, weighting {loss.weighting}", title_justify="left")
    for column in ("term", "weight", "unit", "residual", "penalty", "mask", "reduction"):
        table.add_column(column)
    for (name, term), weight in zip(loss.by_name.items(), loss.weighting.prior.tolist(), strict=True):
        target = f" ({loss.targets[name]})" if name in loss.targets else ""
        table.add_row(*map(escape, (name, f"{weight:g}{target}", term.unit(), *_parts(term))))
    return table


def datasets_table(mixture: Mixture) -> Table:
    """What is trained on together: how much each dataset weighs, and how often it is drawn."""
    table = Table(title="Datasets of the training", title_justify="left")
    for column in ("dataset", "structures", "weight in the loss", "sampling", "share of an epoch"):
        table.add_column(column, justify="left" if column == "dataset" else "right")
    for name, own in mixture.datasets.items():
        numbers = (f"{mixture.weights[name]:g}", f"{own.sampling:g}", f"{mixture.expected[name]:.1%}")
        table.add_row(escape(name), str(own.structures), *numbers)
    return table


def _parts(term: Term) -> list[str]:
    """Residual, penalty, mask and reduction in words; terms of other kinds lack some of them."""
    parts = {name: str(getattr(term, name, "")) for name in ("residual", "penalty", "mask", "reduction")}
    if derived := getattr(term, "prediction", None):
        parts["residual"] += f" of {derived}"
    return [part.replace("()", "") for part in parts.values()]

"""What experiments make of a finished sweep: a row a run, means over seeds, tables in a README, panels."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from pesloss.report.sweep import Comparison, ErrorName, Mean, Setting, compare, read_sweep
from pesloss.report.sweep.texts import number


def finished(folder: Path) -> Comparison:
    """Test errors of a sweep.

    Raises:
        SystemExit: if some of its jobs have not finished.
    """
    sweep = read_sweep(folder)
    if others := [f"{num} {state}" for state, num in sweep.counts.items() if num and state != "finished"]:
        raise SystemExit(f"{folder}: {', '.join(others)}; the command of the sweep goes on with it.")
    return compare(sweep, "test")


def by_values(comparison: Comparison, *keys: str) -> dict[tuple[float, ...], Setting]:
    """Settings by what was swept, in ascending order.

    Raises:
        SystemExit: if something else was swept besides.
    """
    if sorted(comparison.keys) != sorted(keys):
        raise SystemExit(
            f"{comparison.sweep.folder} varies {', '.join(comparison.keys)}, not {', '.join(keys)}."
        )
    found = {tuple(float(one.values[key]) for key in keys): one for one in comparison.settings}
    return dict(sorted(found.items()))


def means_of(
    settings: Mapping[tuple[float, ...], Setting], error: ErrorName
) -> dict[tuple[float, ...], Mean]:
    """An error of each setting, over its seeds.

    Raises:
        SystemExit: if a setting has none that is finite.
    """
    found = {values: one.mean(error.column) for values, one in settings.items()}
    known = {values: mean for values, mean in found.items() if mean is not None}
    if lacking := [", ".join(map(number, values)) for values in found if values not in known]:
        raise SystemExit(f"No finite {error.column} of {'; '.join(lacking)}.")
    return known


def write_csv(path: Path, comparison: Comparison) -> None:
    """What was swept, the seed and the errors of every run."""
    keys, errors = comparison.sweep.keys, comparison.errors
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*keys, "best_epoch", *(error.column for error in errors)])
        for job in comparison.sweep.jobs:
            values = [f"{job.errors[error.column]:.6g}" for error in errors]
            writer.writerow([*(job.swept[key] for key in keys), job.best_epoch, *values])


def title(error: ErrorName) -> str:
    """Of a column or a panel."""
    return f"{error.name.partition('/')[0]} MAE, {error.unit}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def insert(readme: Path, name: str, text: str) -> None:
    """Put text between the markers of its name.

    Raises:
        ValueError: if the file has no such markers.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, marker, rest = readme.read_text(encoding="utf-8").partition(start)
    _, last, after = rest.partition(end)
    if not (marker and last):
        raise ValueError(f"{readme} has no {start.strip()} with {end.strip()} behind it.")
    readme.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")


def panels(
    errors: Sequence[ErrorName], ticks: Sequence[float], xlabel: str
) -> tuple[Figure, Mapping[str, Any]]:
    """A panel an error over what was swept, both logarithmic."""
    figure = Figure(figsize=(3.9 * len(errors), 3.6), layout="constrained")
    axes = figure.subplots(1, len(errors), squeeze=False)[0]
    for axis, error in zip(axes, errors, strict=True):
        axis.set(xscale="log", yscale="log", xlabel=xlabel, title=title(error))
        axis.set_xticks(ticks, [number(tick) for tick in ticks], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    return figure, {error.column: axis for error, axis in zip(errors, axes, strict=True)}


def write(figure: Figure, axes: Mapping[str, Any], path: Path) -> None:
    """With numbers on each vertical axis, which logarithmic ones of less than a decade lack."""
    for axis in axes.values():
        low, high = axis.get_ylim()
        axis.yaxis.set_major_locator(MaxNLocator(5) if high < 4 * low else LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(lambda value, _: number(value))
    FigureCanvasAgg(figure).print_figure(path, dpi=130)


def from_command_line(about: str | None, data: Iterable[str], tell: Callable[[str, Path], None]) -> None:
    """Tell of each data set whose sweep is given, as ``--acac FOLDER``."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in data:
        parser.add_argument(f"--{name}", type=Path, help="folder of its sweep")
    for name, folder in vars(parser.parse_args()).items():
        if folder is not None:
            tell(name, folder)

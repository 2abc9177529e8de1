"""Tables, figures and rows of the experiment from its sweeps.

    python -m experiments.huber_delta --acac multirun/delta_acac --si multirun/delta_si

The README has the commands of the sweeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.sweeps import (
    by_values,
    finished,
    from_command_line,
    insert,
    markdown,
    means_of,
    panels,
    title,
    write,
    write_csv,
)
from pesloss.report.sweep import Comparison, ErrorName, Mean
from pesloss.report.sweep.texts import number

HERE = Path(__file__).parent
DATA = ("acac", "si")
DELTA, WEIGHT = "loss.huber_delta", "loss.weights.forces"
SCALED, PLAIN = 1.0, 10.0
"""Weights of Huber/δ and of plain Huber in the comparisons at one weight."""

Grid = Mapping[tuple[float, ...], Mean]
"""An error by delta and weight of Huber/δ."""


class Line(NamedTuple):
    """An error by delta under one rule for the weight.

    Args:
        rule: in words.
        weights: of Huber/δ, at each delta.
        means: the error, at each delta.
    """

    rule: str
    weights: Mapping[float, float]
    means: Mapping[float, Mean]

    @property
    def factor(self) -> float:
        """Between its largest and its smallest value."""
        values = [mean.value for mean in self.means.values()]
        return max(values) / min(values)


def lines(grid: Grid) -> list[Line]:
    """One weight of Huber/δ, one weight of plain Huber, and the best weight at each delta.

    Plain Huber is δ times Huber/δ: with a weight w it is Huber/δ with the weight w·δ, on a diagonal of the
    grid.
    """
    best = {
        delta: min((w for d, w in grid if d == delta), key=lambda w: grid[delta, w].value)
        for delta, _ in grid
    }
    return [
        _line(f"Huber/δ, weight {SCALED:g}", grid, lambda delta: SCALED),
        _line(f"plain Huber, weight {PLAIN:g}", grid, lambda delta: PLAIN * delta),
        _line("best weight at each δ", grid, lambda delta: best[delta]),
    ]


def _line(rule: str, grid: Grid, weight: Callable[[float], float]) -> Line:
    # 10 · 0.1 is not the 1 of the command line to the last digit
    known = {(delta, f"{w:.6g}"): w for delta, w in grid}
    weights = {delta: known[delta, f"{weight(delta):.6g}"] for delta in dict.fromkeys(d for d, _ in grid)}
    return Line(rule, weights, {delta: grid[delta, w] for delta, w in weights.items()})


def tell(data: str, folder: Path) -> None:
    """All of one data set."""
    comparison = finished(folder)
    settings = by_values(comparison, DELTA, WEIGHT)
    grids = {error: means_of(settings, error) for error in comparison.errors}
    write_csv(HERE / f"{data}.csv", comparison)
    insert(HERE / "README.md", f"deltas of {data}", _deltas(comparison, grids))
    insert(
        HERE / "README.md", f"grid of {data}", "\n".join(_table(comparison, *one) for one in grids.items())
    )
    _plot(data, comparison.errors, grids)


def _deltas(comparison: Comparison, grids: Mapping[ErrorName, Grid]) -> str:
    """What delta does to each error under each rule."""
    rows = []
    for error, grid in grids.items():
        for line in lines(grid):
            cells = [comparison.digits[error].mean(mean) for mean in line.means.values()]
            rows.append([title(error), line.rule, *cells, f"×{line.factor:.2f}"])
    deltas = sorted({delta for delta, _ in next(iter(grids.values()))})
    return markdown(
        ["error", "weight", *(f"δ = {number(d)} eV/Å" for d in deltas), "largest / smallest"], rows
    )


def _table(comparison: Comparison, error: ErrorName, grid: Grid) -> str:
    """An error at every delta and weight; the lowest of each delta in bold."""
    weights = sorted({weight for _, weight in grid})
    rows = []
    for delta, best in lines(grid)[-1].weights.items():
        cells = {weight: comparison.digits[error].mean(grid[delta, weight]) for weight in weights}
        rows.append([number(delta), *(f"**{text}**" if w == best else text for w, text in cells.items())])
    head = [f"{title(error)}: δ, eV/Å", *(f"weight {number(weight)}" for weight in weights)]
    return markdown(head, rows)


def _plot(data: str, errors: Sequence[ErrorName], grids: Mapping[ErrorName, Grid]) -> None:
    deltas = sorted({delta for delta, _ in next(iter(grids.values()))})
    figure, axes = panels(errors, deltas, "δ, eV/Å")
    for error, grid in grids.items():
        for line, marker, aside in zip(lines(grid), "os^", (0.93, 1.0, 1.07), strict=True):
            axes[error.column].errorbar(
                [aside * delta for delta in deltas],
                [line.means[delta].value for delta in deltas],
                [line.means[delta].spread or 0.0 for delta in deltas],
                marker=marker,
                markersize=4,
                linewidth=1,
                capsize=2,
                label=line.rule,
            )
    figure.legend(*axes[errors[0].column].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    write(figure, axes, HERE / f"{data}.png")


if __name__ == "__main__":
    from_command_line(__doc__, DATA, tell)

"""Table, figure and rows of the experiment from its sweeps.

    python -m experiments.weight_sweep --acac multirun/weight_acac --si multirun/weight_si

The README has the commands of the sweeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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
KEYS = {"acac": "loss.weights.forces", "si": "loss.weights.stress"}
SHARES = (0.1, 0.25)
"""By how much more than the lowest error a weight may have, to be as good as the best or nearly so."""

Curve = Mapping[float, Mean]
"""An error by weight."""


def plateau(errors: Mapping[float, float], share: float) -> tuple[float, float]:
    """Lowest and highest weight around the best between which no error is larger by more than a share of it.

    Example:
        >>> plateau({0.1: 5.0, 1.0: 2.1, 10.0: 2.0, 100.0: 3.0, 1000.0: 2.0}, share=0.1)
        (1.0, 10.0)
    """
    weights = sorted(errors)
    best = min(weights, key=lambda weight: errors[weight])
    low = high = weights.index(best)
    limit = (1 + share) * errors[best]
    while low > 0 and errors[weights[low - 1]] <= limit:
        low -= 1
    while high < len(weights) - 1 and errors[weights[high + 1]] <= limit:
        high += 1
    return weights[low], weights[high]


def tell(data: str, folder: Path) -> None:
    """All of one data set."""
    comparison = finished(folder)
    settings = by_values(comparison, KEYS[data])
    curves = {
        error: {weight: mean for (weight,), mean in means_of(settings, error).items()}
        for error in comparison.errors
    }
    write_csv(HERE / f"{data}.csv", comparison)
    insert(HERE / "README.md", f"plateau of {data}", _plateaus(curves))
    insert(HERE / "README.md", f"errors of {data}", _errors(comparison, curves))
    _plot(data, comparison, curves)


def _plateaus(curves: Mapping[ErrorName, Curve]) -> str:
    """How far the weight may be from the best."""
    rows = []
    for error, curve in curves.items():
        values = {weight: mean.value for weight, mean in curve.items()}
        best = min(values, key=lambda weight: values[weight])
        ranges = [" – ".join(map(number, plateau(values, share))) for share in SHARES]
        rows.append([title(error), number(best), *ranges, f"×{max(values.values()) / values[best]:.2f}"])
    within = [f"weights within {share:.0%}" for share in SHARES]
    return markdown(["error", "best weight", *within, "worst of all"], rows)


def _errors(comparison: Comparison, curves: Mapping[ErrorName, Curve]) -> str:
    rows = [
        [number(weight), *(comparison.digits[error].mean(curve[weight]) for error, curve in curves.items())]
        for weight in next(iter(curves.values()))
    ]
    return markdown(["weight", *map(title, curves)], rows)


def _plot(data: str, comparison: Comparison, curves: Mapping[ErrorName, Curve]) -> None:
    weights = list(next(iter(curves.values())))
    figure, axes = panels(comparison.errors, weights, f"weight of the {KEYS[data].rpartition('.')[2]}")
    for error, curve in curves.items():
        axis, values = axes[error.column], [mean.value for mean in curve.values()]
        lowest = min(values)
        axis.axhspan(lowest, (1 + SHARES[0]) * lowest, color="tab:green", alpha=0.15, linewidth=0)
        axis.plot(weights, values, color="black", linewidth=1)
        for job in comparison.sweep.jobs:
            axis.plot(job.swept[KEYS[data]], job.errors[error.column], "o", color="tab:blue", alpha=0.7, ms=4)
    write(figure, axes, HERE / f"{data}.png")


if __name__ == "__main__":
    from_command_line(__doc__, KEYS, tell)

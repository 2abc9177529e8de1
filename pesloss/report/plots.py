"""Plots of a run: is each prediction on the diagonal, and has the training settled."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions
from pesloss.losses.properties import Property
from pesloss.report.structures import labelled_pairs
from pesloss.report.worst import WorstStructures
from pesloss.training.metrics import Metric

Columns = Mapping[str, np.ndarray]


class ParitySample:
    """Labels and predictions of labelled components; of many, some, each as likely as any other.

    Args:
        prop: the property.
        size: how many to keep.
    """

    def __init__(self, prop: Property, size: int = 20_000) -> None:
        self.prop, self.size = prop, size
        self._random = torch.Generator().manual_seed(0)
        self._rows = torch.empty(3, 0, dtype=torch.float64)  # label, prediction, lot

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Count a batch in."""
        if self.prop.name in batch:
            pairs = labelled_pairs(self.prop, batch, predictions)
            lots = torch.rand(1, pairs.shape[1], generator=self._random, dtype=torch.float64)
            self._rows = torch.cat([self._rows, torch.cat([pairs, lots])], dim=1)
            if self._rows.shape[1] > 4 * self.size:
                self._rows = self._drawn()

    def points(self) -> Float64[np.ndarray, "2 points"]:
        """Labels and predictions in the displayed unit."""
        return self._drawn()[:2].numpy()

    def _drawn(self) -> Float64[Tensor, "3 points"]:
        """Those with the lowest lots, which do not depend on the batches."""
        if self._rows.shape[1] <= self.size:
            return self._rows
        return self._rows[:, self._rows[2].topk(self.size, largest=False).indices]


def parity_plots(
    folder: Path,
    properties: Mapping[str, Property],
    samples: Mapping[str, Mapping[str, ParitySample]],
    errors: Mapping[str, Mapping[str, Metric]],
    marked: Mapping[str, WorstStructures | None] | None = None,
) -> list[Path]:
    """One plot a property of prediction against label, component by component, a panel a split.

    Args:
        folder: where ``parity_<property>.png`` goes.
        properties: what to compare, by name.
        samples: what to plot, by split and property.
        errors: to tell in the titles, by split and name.
        marked: the worst structures by split; those with a flag are circled.
    """
    worst = {split: found for split, found in (marked or {}).items() if found is not None}
    paths = []
    for name, prop in properties.items():
        main = f"{name}/mae_component" if prop.shape else f"{name}/mae"
        panels = {
            split: (found[name], errors[split][main], errors[split][main.replace("/mae", "/rmse")])
            for split, found in samples.items()
            if main in errors[split] and found[name].points().size
        }
        if panels:
            circles = {split: worst[split].points(name) for split in panels if split in worst}
            paths.append(_parity(folder / f"parity_{_slug(name)}.png", prop, panels, circles))
    return paths


def learning_curves(folder: Path) -> Path | None:
    """Values of the terms by step, errors on the validation structures by epoch.

    Args:
        folder: where ``steps.csv`` and ``epochs.csv`` lie and ``learning_curves.png`` goes.

    Returns:
        The plot, ``None`` if no tables were kept.
    """
    steps, epochs = _table(folder / "steps.csv"), _table(folder / "epochs.csv")
    if not steps or not epochs:
        return None
    errors = [name for name in epochs if name.startswith("val/") and _is_main(name)]
    figure = Figure(figsize=(5 * (1 + len(errors)), 3.6), layout="constrained")
    axes = figure.subplots(1, 1 + len(errors), squeeze=False)[0]
    for name in (name for name in steps if name.startswith("value/")):
        labelled = np.nan_to_num(steps[name]) != 0  # a step may be without labels of a term
        if labelled.any():
            where, values = _smooth(steps["step"][labelled], steps[name][labelled])
            axes[0].plot(where, values, label=name.removeprefix("value/"), linewidth=1)
    axes[0].set(xlabel="step", ylabel="value of the term", yscale="log", title="training loss")
    axes[0].legend(frameon=False)
    for axis, name in zip(axes[1:], errors, strict=True):
        prop, unit = name.split("/")[1], name[name.index("[") + 1 : -1]
        axis.plot(epochs["epoch"], epochs[name], color="black", linewidth=1)
        axis.set(xlabel="epoch", ylabel=f"MAE [{unit}]", title=f"{prop}, validation")
        axis.set_yscale(_scale(epochs[name]))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _save(figure, folder / "learning_curves.png")


def _is_main(name: str) -> bool:
    """Whether a column holds the mean absolute error of all components of a property."""
    return name.partition(" [")[0].endswith(("/mae", "/mae_component"))


def _parity(
    path: Path,
    prop: Property,
    panels: Mapping[str, tuple[ParitySample, Metric, Metric]],
    circles: Mapping[str, Float64[np.ndarray, "2 points"]],
) -> Path:
    figure = Figure(figsize=(4.2 * len(panels), 4.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (split, (sample, mae, rmse)) in zip(axes, panels.items(), strict=True):
        points = sample.points()
        ends = [points.min(), points.max()]
        axis.plot(ends, ends, color="0.7", linewidth=1, zorder=0)
        crowd = points.shape[1] ** 0.5
        alpha, size = np.clip(30 / crowd, 0.2, 0.8), np.clip(400 / crowd, 4, 16)
        axis.scatter(*points, s=size, alpha=alpha, linewidths=0, rasterized=True)
        if circles.get(split, np.empty(0)).size:
            told = "flagged among the worst"
            axis.scatter(
                *circles[split], s=24, facecolors="none", edgecolors="tab:red", linewidths=0.7, label=told
            )
            axis.legend(frameon=False, fontsize="small")
        axis.set(xlabel=f"label [{mae.unit}]", ylabel=f"prediction [{mae.unit}]", aspect="equal")
        shown, labels = points.shape[1], mae.labels
        part = f"\n{shown} of {labels} shown" if shown < labels else ""
        title = f"{prop.name}, {split}: MAE {mae.value:.3g}, RMSE {rmse.value:.3g} {mae.unit}{part}"
        axis.set_title(title, fontsize="medium")
    return _save(figure, path)


def _scale(values: np.ndarray) -> str:
    """Logarithmic for what changes by a factor, unless it gets to zero, as the forces on a lone atom do."""
    return "log" if 0 < 3 * np.nanmin(values) < np.nanmax(values) else "linear"


def _smooth(where: np.ndarray, values: np.ndarray, points: int = 200) -> tuple[list[float], list[float]]:
    """Means over stretches of steps, so that a long run stays readable."""
    size = max(len(values) // points, 1)
    starts = range(0, len(values), size)
    ends = [min(start + size, len(values)) - 1 for start in starts]
    return where[ends].tolist(), [float(values[start : start + size].mean()) for start in starts]


def _table(path: Path) -> Columns:
    """Columns of a table of numbers; what a row lacks is NaN."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        columns = {name: array("d") for name in next(rows)}
        for row in rows:
            for column, value in zip(columns.values(), row, strict=True):
                column.append(float(value or "nan"))
    return {name: np.frombuffer(column) for name, column in columns.items()} if rows.line_num > 1 else {}


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _save(figure: Any, path: Path) -> Path:
    # the canvas is named, because pyplot would keep figures of one job for the next
    FigureCanvasAgg(figure).print_figure(path, dpi=150)
    return path

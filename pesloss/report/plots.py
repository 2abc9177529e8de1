"""Plots of a run: is each prediction on the diagonal, and has the training settled."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions
from pesloss.losses.properties import Property
from pesloss.training.metrics import compared, displayed_unit

Row = Mapping[str, float]


def parity_plots(
    folder: Path,
    predicted: Iterable[tuple[Batch, Predictions]],
    properties: Mapping[str, Property],
    split: str,
) -> list[Path]:
    """One plot a property of prediction against label, component by component, with the errors below it.

    Args:
        folder: where ``parity_<property>.png`` goes.
        predicted: batches with their predictions.
        properties: what to compare, by name.
        split: name of the structures, for the title.
    """
    batches = list(predicted)
    paths = []
    for name, prop in properties.items():
        pairs = [_pairs(prop, batch, predictions) for batch, predictions in batches if name in batch]
        if pairs and (pair := torch.cat(pairs, dim=1)).numel():
            paths.append(_parity(folder / f"parity_{_slug(name)}.png", prop, pair, split))
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
    terms = [name for name in steps[0] if name.startswith("value/")]
    errors = [name for name in epochs[0] if name.startswith("val/") and "/mae" in name]
    figure = Figure(figsize=(5 * (1 + len(errors)), 3.6), layout="constrained")
    axes = figure.subplots(1, 1 + len(errors), squeeze=False)[0]
    for name in terms:
        labelled = [row for row in steps if row[name] != 0]  # a step without labels of a term
        if labelled:
            axes[0].plot(*_smooth(labelled, name), label=name.removeprefix("value/"), linewidth=1)
    axes[0].set(xlabel="step", ylabel="value of the term", yscale="log", title="training loss")
    axes[0].legend(frameon=False)
    for axis, name in zip(axes[1:], errors, strict=True):
        prop, unit = name.split("/")[1], name[name.index("[") + 1 : -1]
        axis.plot([row["epoch"] for row in epochs], [row[name] for row in epochs], color="black", linewidth=1)
        axis.set(xlabel="epoch", ylabel=f"MAE [{unit}]", title=f"{prop}, validation")
        axis.set_yscale(_scale(row[name] for row in epochs))
    return _save(figure, folder / "learning_curves.png")


def _pairs(prop: Property, batch: Batch, predictions: Predictions) -> Tensor:
    """Labels and predictions of the labelled components, in the displayed unit."""
    factor, _ = displayed_unit(prop)
    label = compared(prop, batch[prop.name], batch)
    known = ~label.isnan()
    return factor * torch.stack([label[known], compared(prop, predictions[prop.name], batch)[known]]).cpu()


def _parity(path: Path, prop: Property, pair: Tensor, split: str) -> Path:
    label, prediction = pair.tolist()
    _, unit = displayed_unit(prop)
    error = pair[1] - pair[0]
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axis = figure.subplots()
    ends = [min(pair.min().item(), 0.0), max(pair.max().item(), 0.0)]
    axis.plot(ends, ends, color="0.7", linewidth=1, zorder=0)
    axis.scatter(label, prediction, s=4, alpha=0.4, linewidths=0, rasterized=True)
    axis.set(xlabel=f"label [{unit}]", ylabel=f"prediction [{unit}]", aspect="equal")
    axis.set_title(
        f"{prop.name}, {split}: MAE {error.abs().mean():.3g}, RMSE {error.square().mean().sqrt():.3g} {unit}",
        fontsize="medium",
    )
    return _save(figure, path)


def _scale(values: Iterable[float]) -> str:
    """Logarithmic, unless something is exactly zero, as the forces on a lone atom."""
    return "log" if min(values) > 0 else "linear"


def _smooth(rows: Sequence[Row], name: str, points: int = 200) -> tuple[list[float], list[float]]:
    """Means over stretches of steps, so that a long run stays readable."""
    size = max(len(rows) // points, 1)
    stretches = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [s[-1]["step"] for s in stretches], [sum(row[name] for row in s) / len(s) for s in stretches]


def _table(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _save(figure: Any, path: Path) -> Path:
    # the canvas is named, because pyplot would keep figures of one job for the next
    FigureCanvasAgg(figure).print_figure(path, dpi=150)
    return path

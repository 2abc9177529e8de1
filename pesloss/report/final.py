"""The end of a run: errors of the best weights beside those of the mean, as metrics, table and plots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from pesloss.data import Packed
from pesloss.losses import Batch
from pesloss.report.plots import learning_curves, parity_plots
from pesloss.training import Errors, Fit, Fitted, MeanPredictor, Metrics

ByProperty = Mapping[str, Errors]


def conclude(fit: Fit, fitted: Fitted, console: Console) -> dict[str, Any]:
    """Evaluate the best weights on every split but the training structures.

    Writes ``metrics.json``, ``parity_<property>.png`` and ``learning_curves.png`` to the folder of the run.

    Args:
        fit: the finished training.
        fitted: how it ended.
        console: where the table goes.

    Returns:
        What ``metrics.json`` holds.
    """
    parts = {name: part for name in ("val", "test") if (part := getattr(fit.data, name)) is not None}
    errors = {name: fit.evaluate(part) for name, part in parts.items()}
    mean = mean_errors(fit, parts)
    metrics = {
        "score": {"name": fitted.score, "value": fitted.best_score, "epoch": fitted.best_epoch},
        "seconds": round(fitted.seconds, 3),
        "errors": _as_dicts(errors),
        "errors_of_the_mean": _as_dicts(mean),
    }
    if fit.fabric.is_global_zero:
        text = json.dumps(metrics, indent=2, ensure_ascii=False)
        (fit.folder / "metrics.json").write_text(text, encoding="utf-8")
        console.print(errors_table(f"Errors of the best weights, epoch {fitted.best_epoch}", errors, mean))
        shown = "test" if "test" in parts else "val"
        if shown in parts:
            parity_plots(fit.folder, fit.predict(parts[shown]), fit.loss.required, shown)
        learning_curves(fit.folder)
        console.print(f"Everything is in {fit.folder}", soft_wrap=True, highlight=False)
    return metrics


def mean_errors(fit: Fit, parts: Mapping[str, Packed]) -> dict[str, ByProperty]:
    """Errors of predicting the mean training label, on each split."""
    predictor = MeanPredictor(fit.loss.required, fit.data.train.labels())
    return {name: _errors(fit, predictor, part.labels()) for name, part in parts.items()}


def errors_table(title: str, errors: Mapping[str, ByProperty], baseline: Mapping[str, ByProperty]) -> Table:
    """Errors by split and property beside those of predicting the mean."""
    table = Table(title=title, title_justify="left")
    for column in ("split", "property", "MAE", "RMSE", "unit", "MAE of the mean", "labels"):
        table.add_column(column, justify="left" if column in ("split", "property", "unit") else "right")
    for split, by_property in errors.items():
        for name, found in by_property.items():
            mean = baseline[split][name].mae
            row = (f"{found.mae:.4g}", f"{found.rmse:.4g}", found.unit, f"{mean:.4g}", f"{found.labels}")
            table.add_row(split, name, *row)
    return table


def _errors(fit: Fit, predictor: MeanPredictor, batch: Batch) -> ByProperty:
    metrics = Metrics(fit.loss.required)
    metrics.update(predictor(batch), batch)
    return metrics.compute()


def _as_dicts(errors: Mapping[str, ByProperty]) -> dict[str, Any]:
    return {part: {name: e._asdict() for name, e in found.items()} for part, found in errors.items()}

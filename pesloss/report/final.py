"""Errors of a model beside those of knowing the mean only, as metrics, tables and plots."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from pesloss.losses import TotalLoss
from pesloss.losses.batch import Batch, Predictions
from pesloss.losses.properties import Property
from pesloss.report.plots import ParitySample, learning_curves, parity_plots
from pesloss.report.tables import errors_table, groups_table
from pesloss.report.worst import Worst, WorstStructures
from pesloss.training.metrics import Groups, MeanPredictor, Metric, Metrics, table_columns

Predicted = Iterable[tuple[Batch, Predictions]]


class Evaluation(NamedTuple):
    """What a model makes of one split.

    Args:
        errors: of the model.
        baseline: of the mean of the training labels, by the same names; empty where that is not known.
        samples: labels and predictions to plot, by property.
        worst: the worst structures; ``None`` if nothing has a label, or nobody asked.
    """

    errors: Mapping[str, Metric]
    baseline: Mapping[str, Metric]
    samples: Mapping[str, ParitySample]
    worst: WorstStructures | None = None

    @classmethod
    def of(
        cls,
        predicted: Predicted,
        properties: Mapping[str, Property],
        groups: Groups | None = None,
        mean: MeanPredictor | None = None,
        worst: Worst | None = None,
    ) -> Evaluation:
        """All of it from one pass over the batches; errors are those of all ranks together."""
        metrics = Metrics(properties, groups)
        baseline = Metrics({} if mean is None else mean.properties, groups)
        samples = {name: ParitySample(prop) for name, prop in properties.items()}
        for batch, predictions in predicted:
            metrics.update(predictions, batch)
            if worst is not None:
                worst.update(predictions, batch)
            if mean is not None:
                baseline.update(mean(batch), batch)
            for sample in samples.values():
                sample.update(predictions, batch)
        return cls(metrics.compute(), baseline.compute(), samples, None if worst is None else worst.compute())


def conclude(
    predicted: Mapping[str, Predicted],
    properties: Mapping[str, Property],
    *,
    folder: Path | None,
    console: Console,
    title: str,
    groups: Groups | None = None,
    mean: MeanPredictor | None = None,
    about: Mapping[str, Any] | None = None,
    loss: TotalLoss | None = None,
    source: Callable[[int], str] = str,
) -> dict[str, Any]:
    """Evaluate a model on some splits, tell the errors and keep them.

    Writes ``metrics.json``, ``parity_<property>.png``, ``worst_<split>.csv`` and, where the folder has the
    tables of a training, ``learning_curves.png``. Every rank calls it with its own share of the structures.

    Args:
        predicted: batches and what the model says of them, by the name of the split; read once.
        properties: what was predicted, by name.
        folder: where files go; ``None`` on all ranks but the first, which write nothing.
        console: where tables go.
        title: what the errors are of.
        groups: what errors are told apart by besides.
        mean: the mean of the training labels, to be compared with.
        about: what else ``metrics.json`` is to say.
        loss: what decides which structures are the worst, where the predictions are; it is not changed.
        source: from a structure's ``index`` to its file and place there.

    Returns:
        What ``metrics.json`` holds: ``about``, and ``metrics``, ``baseline`` (errors of the mean) and
        ``labels`` (what they are means of) by one set of names such as
        ``test/forces/mae_component/element=C [meV/Å]``.
    """
    found = {
        split: Evaluation.of(
            batches, properties, groups, mean, Worst(properties, loss, source=source, groups=groups)
        )
        for split, batches in predicted.items()
    }
    metrics = {**(about or {}), **as_dict(found)}
    if folder is None:
        return metrics
    text = json.dumps(metrics, indent=2, ensure_ascii=False)
    (folder / "metrics.json").write_text(f"{text}\n", encoding="utf-8")
    errors = {split: evaluation.errors for split, evaluation in found.items()}
    baseline = {split: evaluation.baseline for split, evaluation in found.items()}
    console.print(errors_table(title, properties, errors, baseline))
    if table := groups_table(properties, errors, baseline):
        console.print(table)
    samples = {split: evaluation.samples for split, evaluation in found.items()}
    worst = {split: evaluation.worst for split, evaluation in found.items()}
    tell_worst(folder, console, properties, worst)
    parity_plots(folder, properties, samples, errors, worst)
    learning_curves(folder)
    console.print(f"Everything is in {folder}", soft_wrap=True, highlight=False)
    return metrics


def tell_worst(
    folder: Path,
    console: Console,
    properties: Mapping[str, Property],
    worst: Mapping[str, WorstStructures | None],
) -> None:
    """Tables of the worst structures of each split, and what is so of many of them."""
    for split, structures in worst.items():
        if structures is not None:
            structures.write(folder / f"worst_{split}.csv")
            console.print(structures.table(split, properties))
            for sentence in structures.sentences:
                console.print(f"{split}: {sentence}", soft_wrap=True, highlight=False)


def as_dict(found: Mapping[str, Evaluation]) -> dict[str, dict[str, Any]]:
    """Errors, those of the mean, and the numbers of labels, all by the same flat names."""
    metrics, baseline, labels = {}, {}, {}
    for split, evaluation in found.items():
        metrics |= table_columns(evaluation.errors, split)
        baseline |= table_columns(evaluation.baseline, split)
        labels |= {m.column(f"{split}/{key}"): m.labels for key, m in evaluation.errors.items()}
    return {"metrics": metrics, "baseline": baseline, "labels": labels}

"""Errors as tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.table import Table

from pesloss.losses.properties import Property
from pesloss.training.metrics import Metric

Errors = Mapping[str, Mapping[str, Metric]]
"""Errors by split and name."""

MAX_ROWS = 40
"""Of the table of groups; ``metrics.json`` has them all."""
ENTRIES = {"": "", "_total": "total", "_component": "component", "_vector": "vector"}
"""What an error is of, by the end of its name."""


def errors_table(title: str, properties: Mapping[str, Property], errors: Errors, baseline: Errors) -> Table:
    """Errors by split, property and what they are of, beside those of predicting the mean."""
    table = Table(title=title, title_justify="left")
    for column in ("split", "property", "of"):
        table.add_column(column)
    for column in ("MAE", "RMSE", "bias", "deviation"):
        table.add_column(column, justify="right")
    table.add_column("unit")
    for column in ("MAE of the mean", "labels"):
        table.add_column(column, justify="right")
    for split, found in errors.items():
        for name, end in _entries(properties):
            key = f"{name}/mae{end}"
            if key in found:
                of = ENTRIES[end] or ("per atom" if found[key].unit.endswith("/atom") else "")
                numbers = [_number(found, f"{name}/{kind}{end}") for kind in ("mae", "rmse")]
                numbers += ["" if end else _number(found, f"{name}/{kind}") for kind in ("bias", "deviation")]
                mean = _number(baseline[split], key)
                table.add_row(split, name, of, *numbers, found[key].unit, mean, str(found[key].labels))
        table.add_section()
    return table


def groups_table(properties: Mapping[str, Property], errors: Errors, baseline: Errors) -> Table | None:
    """Errors of the last split by element, config type and dataset, of components and of energies per atom.

    Returns:
        The table, ``None`` if nothing is told apart.
    """
    split = list(errors)[-1] if errors else ""
    rows = list(_group_rows(properties, errors[split], baseline[split])) if errors else []
    if not rows:
        return None
    rest = len(rows) - MAX_ROWS
    caption = f"{rest} more in metrics.json" if rest > 0 else None
    title = f"By group, {split}"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for column in ("property", "group"):
        table.add_column(column)
    for column in ("MAE", "RMSE"):
        table.add_column(column, justify="right")
    table.add_column("unit")
    for column in ("MAE of the mean", "labels"):
        table.add_column(column, justify="right")
    for row in rows[:MAX_ROWS]:
        table.add_row(*row)
    return table


def _group_rows(
    properties: Mapping[str, Property], found: Mapping[str, Metric], baseline: Mapping[str, Metric]
) -> Iterator[tuple[str, ...]]:
    for name, prop in properties.items():
        end = "_component" if prop.shape else ""
        start = f"{name}/mae{end}/"
        for key in (key for key in found if key.startswith(start)):
            group = key.removeprefix(start)
            numbers = (_number(found, key), _number(found, f"{name}/rmse{end}/{group}"))
            yield name, group, *numbers, found[key].unit, _number(baseline, key), str(found[key].labels)


def _entries(properties: Mapping[str, Property]) -> Iterator[tuple[str, str]]:
    """Properties and what is told of them; the length of a tensor's error is left to ``metrics.json``."""
    for name, prop in properties.items():
        yield from ((name, end) for end in ENTRIES if end != "_vector" or len(prop.shape) == 1)


def _number(found: Mapping[str, Metric], key: str) -> str:
    return f"{found[key].value:.4g}" if key in found else ""

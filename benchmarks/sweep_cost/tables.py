"""Costs as a table and as bars."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.sweep_cost.cases import COMPILED, PEER

OURS = "pesloss, a process each"
Runs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    """Medians of a case over the rounds.

    Args:
        case: its name.
        settings: how many of the sweep were run; costs are of all of them.
        cpu_s: CPU time of the sweep.
        cpu_s_each: the same for one setting.
        wall_s: wall time of the sweep.
        memory_mib: peak of the largest process.
        to_ours: CPU time beside that of our processes, eager; ``None`` without them.
        to_peer: the same beside graph-pes.
        compiling_cpu_s: CPU time that the compiler takes at the first time, and never again.
        best: the best setting, where all were run.
        error: its error.
    """

    case: str
    settings: int
    cpu_s: float
    cpu_s_each: float
    wall_s: float
    memory_mib: float
    to_ours: float | None
    to_peer: float | None
    compiling_cpu_s: float | None
    best: str | None
    error: float | None


def rows(runs: Runs, first: Runs, size: int) -> list[Row]:
    """A row a case, in the order of the runs.

    Args:
        runs: what was measured.
        first: the first time of each case.
        size: settings of the sweep.
    """
    by_case = {run["case"]: [one for one in runs if one["case"] == run["case"]] for run in runs}
    compiling = {one["case"]: one["compiling_cpu_s"] for one in first if COMPILED in one["case"]}
    cpu_s = {case: median(one["cpu_s"] for one in found) for case, found in by_case.items()}
    made = []
    for case, found in by_case.items():
        best = found[0]["best"] or {"setting": None, "error": None}
        made.append(
            Row(
                case,
                settings=found[0]["settings"],
                cpu_s=cpu_s[case],
                cpu_s_each=cpu_s[case] / size,
                wall_s=median(one["wall_s"] for one in found),
                memory_mib=median(one["memory_mib"] for one in found),
                to_ours=cpu_s[case] / cpu_s[OURS] if OURS in cpu_s else None,
                to_peer=cpu_s[case] / cpu_s[PEER] if PEER in cpu_s else None,
                compiling_cpu_s=compiling.get(case),
                best=best["setting"],
                error=best["error"],
            )
        )
    return made


def write_csv(table: Sequence[Row], path: Path) -> None:
    """A row a case."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in table)


def markdown(table: Sequence[Row]) -> str:
    """Costs, ratios, and what was found."""
    lines = [
        "| the sweep | CPU s | a setting | wall s | peak memory, MiB | CPU, ours = 1 | graph-pes = 1 "
        "| compiling, once, CPU s | best weight, δ | its force MAE, meV/Å |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table:
        sampled = f" ({row.settings} run)" if row.best is None else ""
        cells = [
            f"{row.case}{sampled}",
            *(f"{row.cpu_s:.0f}", f"{row.cpu_s_each:.1f}", f"{row.wall_s:.0f}", f"{row.memory_mib:.0f}"),
            *(_told(row.to_ours, ".2f"), _told(row.to_peer, ".3f"), _told(row.compiling_cpu_s, ".0f")),
            *(row.best or "", _told(row.error, ".2f")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(table: Sequence[Row], path: Path) -> None:
    """CPU time of each case, with what it is beside our own processes."""
    figure = Figure(figsize=(8, 0.42 * len(table) + 1.1), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(
        [row.case for row in table], [row.cpu_s for row in table], color=[_color(row.case) for row in table]
    )
    told = ["" if row.to_ours is None else f"×{row.to_ours:.2f}" for row in table]
    axes.bar_label(
        bars, [f"{row.cpu_s:.0f} s {words}" for row, words in zip(table, told, strict=True)], padding=3
    )
    least, most = min(row.cpu_s for row in table), max(row.cpu_s for row in table)
    axes.set(xscale="log", xlabel="CPU s of the sweep", xlim=(least / 2, 4 * most))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25)
    FigureCanvasAgg(figure).print_figure(path, dpi=150)


def _color(case: str) -> str:
    return "tab:gray" if case == PEER else "tab:blue" if COMPILED in case else "tab:orange"


def _told(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"

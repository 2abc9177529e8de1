"""Numbers, table and figure of an experiment from its sweeps.

    python experiments/collect.py experiments/acac val SWEEP [SWEEP ...]

Writes ``errors.csv`` (a row a run) and ``errors.png`` into the folder of the experiment and puts the table of
means over seeds between the markers of its README, if it has them.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

START, END = "<!-- table: python experiments/collect.py -->\n", "<!-- end of table -->\n"
KINDS = {"mae": "MAE", "rmse": "RMSE"}
ENDS = ("", "_component")
SEED = "seed"

Run = dict[str, Any]


def runs(split: str, sweeps: Sequence[Path]) -> list[Run]:
    """Settings and errors of every run; errors by column, such as ``forces/mae_component [meV/Å]``."""
    found = []
    for file in (file for sweep in sweeps for file in sorted(sweep.glob("*/metrics.json"))):
        overrides = yaml.safe_load((file.parent / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
        settings = dict(override.split("=", 1) for override in overrides)
        content = json.loads(file.read_text(encoding="utf-8"))
        errors = {
            column: value
            for name, value in content["metrics"].items()
            if (column := name.removeprefix(f"{split}/")) != name and _is_shown(column)
        }
        found.append({"settings": settings, "errors": errors})
    return found


def named(found: list[Run]) -> dict[str, list[Run]]:
    """Runs by what sets them apart besides the seed."""
    settings = [run["settings"] for run in found]
    names = dict.fromkeys(name for one in settings for name in one if name != SEED)
    varied = [name for name in names if len({one.get(name) for one in settings}) > 1]
    groups: dict[str, list[Run]] = {}
    for run in found:
        words = [f"{name}={run['settings'][name]}" for name in varied if name in run["settings"]]
        groups.setdefault(" ".join(words), []).append(run)
    return groups


def write_csv(path: Path, groups: Mapping[str, Sequence[Run]]) -> None:
    """A row a run."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        columns = list(next(iter(groups.values()))[0]["errors"])
        writer.writerow(["setting", SEED, *columns])
        for name, group in groups.items():
            for run in group:
                errors = [f"{run['errors'][column]:.6g}" for column in columns]
                writer.writerow([name, run["settings"].get(SEED, 0), *errors])


def table(groups: Mapping[str, Sequence[Run]]) -> str:
    """Means over the seeds, with half the range."""
    columns = list(next(iter(groups.values()))[0]["errors"])
    head = [_title(column) for column in columns]
    lines = [f"| setting | {' | '.join(head)} |", f"|{'---|' * (1 + len(head))}"]
    for name, group in groups.items():
        cells = [_mean([run["errors"][column] for run in group]) for column in columns]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(path: Path, groups: Mapping[str, Sequence[Run]]) -> None:
    """A panel a property, a point a run."""
    columns = list(next(iter(groups.values()))[0]["errors"])
    properties = list(dict.fromkeys(column.split("/")[0] for column in columns))
    figure = Figure(figsize=(3.6 * len(properties) + 2.4, 0.42 * len(groups) + 1.6), layout="constrained")
    panels = figure.subplots(1, len(properties), sharey=True, squeeze=False)[0]
    for axis, prop in zip(panels, properties, strict=True):
        for kind, marker in zip(KINDS, "os", strict=True):
            column = next(column for column in columns if column.startswith(f"{prop}/{kind}"))
            for place, group in enumerate(groups.values()):
                values = [run["errors"][column] for run in group]
                color = "tab:blue" if kind == "mae" else "tab:orange"
                label = KINDS[kind] if place == 0 and axis is panels[0] else None
                axis.plot(values, [place] * len(values), marker, alpha=0.7, color=color, label=label)
        axis.set(xlabel=f"error [{column.rpartition('[')[2].removesuffix(']')}]", title=prop, xlim=(0, None))
        axis.grid(axis="x", alpha=0.25)
    panels[0].set_yticks(range(len(groups)), list(groups))
    panels[0].invert_yaxis()
    figure.legend(frameon=False, loc="outside right center")
    FigureCanvasAgg(figure).print_figure(path, dpi=130)


def _is_shown(column: str) -> bool:
    """Errors of all rows, of components and of energies per atom."""
    name = column.partition(" [")[0].partition("/")[2]
    return name in {f"{kind}{end}" for kind in KINDS for end in ENDS}


def _title(column: str) -> str:
    name, _, unit = column.partition(" [")
    prop, kind = name.split("/")
    return f"{prop} {KINDS[kind.partition('_')[0]]}, {unit.removesuffix(']')}"


def _mean(values: Sequence[float]) -> str:
    spread = (max(values) - min(values)) / 2
    return f"{statistics.mean(values):.3g} ± {spread:.2g}"


def main() -> None:
    """Collect the runs that the command line names."""
    folder, split, *sweeps = sys.argv[1:]
    groups = named(runs(split, [Path(sweep) for sweep in sweeps]))
    write_csv(Path(folder) / "errors.csv", groups)
    plot(Path(folder) / "errors.png", groups)
    readme = Path(folder) / "README.md"
    before, marker, rest = readme.read_text(encoding="utf-8").partition(START)
    if marker:
        after = rest.partition(END)[2]
        readme.write_text(f"{before}{START}\n{table(groups)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Numbers and figure of this experiment from its sweeps: ``python collect.py SWEEP [SWEEP ...]``."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = Path(__file__).parent
COLUMNS = {"energy": "", "forces": "_component", "stress": "_component"}


def rows(sweeps: list[Path]) -> list[dict[str, object]]:
    found = []
    for file in (file for sweep in sweeps for file in sorted(sweep.glob("*/metrics.json"))):
        overrides = yaml.safe_load((file.parent / ".hydra" / "overrides.yaml").read_text())
        settings = dict(override.split("=", 1) for override in overrides)
        metrics = json.loads(file.read_text())
        row = {"loss": settings["loss"], "seed": settings["seed"], "seconds": metrics["seconds"]}
        for name, end in COLUMNS.items():
            row |= {f"{name} {kind}": error(metrics, f"{name}/{kind}{end}")[0] for kind in ("mae", "rmse")}
        found.append(row)
    return found


def error(metrics: dict[str, dict[str, float]], name: str) -> tuple[float, str]:
    """A test error and its unit, which stands behind its name."""
    column = next(column for column in metrics["metrics"] if column.startswith(f"test/{name} ["))
    return metrics["metrics"][column], column.rpartition("[")[2].removesuffix("]")


def plot(table: list[dict[str, object]], units: dict[str, str]) -> None:
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    names = list(dict.fromkeys(str(row["loss"]) for row in table))
    for axis, name in zip(figure.subplots(1, 3), COLUMNS, strict=True):
        for kind, marker in (("mae", "o"), ("rmse", "s")):
            places = [names.index(str(row["loss"])) for row in table]
            values = [row[f"{name} {kind}"] for row in table]
            axis.plot(values, places, marker, alpha=0.7, label=kind.upper())
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set(xlabel=f"test error [{units[name]}]", title=name)
        axis.set_xlim(left=0)
        axis.grid(axis="x", alpha=0.3)
    figure.axes[2].legend(frameon=False, loc="lower right")
    FigureCanvasAgg(figure).print_figure(HERE / "errors.png", dpi=130)


def main() -> None:
    sweeps = [Path(argument) for argument in sys.argv[1:]]
    table = rows(sweeps)
    with (HERE / "errors.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    first = json.loads(next(sweeps[0].glob("*/metrics.json")).read_text())
    plot(table, {name: error(first, f"{name}/mae{end}")[1] for name, end in COLUMNS.items()})


if __name__ == "__main__":
    main()

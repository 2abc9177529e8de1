"""Folders as sweeps leave them, without the trainings."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SEEDS = (1, 2, 3)
KEYS = {"loss.weights.forces": (0.1, 1, 10, 100), "loss.huber_delta": (0.01, 0.1, 1), "seed": SEEDS}
UNITS = {
    "energy/mae": "meV/atom",
    "energy/rmse": "meV/atom",
    "forces/mae_component": "meV/Å",
    "forces/rmse_component": "meV/Å",
    "stress/mae_component": "meV/Å³",
}
COMMAND = ("python", "-m", "pesloss.train", "-m", "data=acac", "loss.weights.forces=0.1,1,10,100")
SCORE = "forces/mae_component"
ENDS = ("failed", "interrupted", "running", "dropped", "not begun")
"""Other ends than a good one; of the last jobs, in this order."""


def errors(swept: Mapping[str, Any], names: Sequence[str] = tuple(UNITS)) -> dict[str, float]:
    """Errors with an optimum in each number, noise by the whole setting, and a price between properties."""
    noise = random.Random(json.dumps(swept, sort_keys=True, default=str))
    numbers = [v for k, v in swept.items() if isinstance(v, (int, float)) and "seed" not in k and v > 0]
    place = [math.log10(value) for value in numbers] or [0.0]
    shifts = {"energy": -0.5, "forces": 1.0, "stress": 0.3}
    found = {}
    for split, name in product(("val", "test"), names):
        of = name.partition("/")[0]
        bowl = sum((at - shifts.get(of, 0)) ** 2 for at in place)
        value = {"energy": 1.3, "forces": 21.0, "stress": 0.4}.get(of, 1.0) * (1 + 0.3 * bowl)
        found[f"{split}/{name} [{UNITS[name]}]"] = (
            value * noise.gauss(1, 0.03) * (1.4 if "rmse" in name else 1)
        )
    return found


def sweep(
    folder: Path,
    keys: Mapping[str, Sequence[Any]] = KEYS,
    *,
    ends: Mapping[int, str] | None = None,
    names: Sequence[str] = tuple(UNITS),
    epochs: int = 20,
    plots: bool = False,
    command: Sequence[str] = (
        "python",
        "-m",
        "pesloss.train",
        "-m",
        "data=acac",
        "loss.weights.forces=0.1,1,10,100",
    ),
    jobs: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """A sweep over all combinations of some values.

    Args:
        folder: where it goes.
        keys: values by key of the config.
        ends: by place of the job, how it ended if not well; ``None`` is :data:`ENDS` for the last jobs.
        names: the errors that exist.
        epochs: of each job.
        plots: whether jobs have parity plots.
        command: that started it.
        jobs: what is swept in each job, in place of ``keys``.
    """
    swept = list(jobs or (dict(zip(keys, values, strict=True)) for values in product(*keys.values())))
    if ends is None:
        ends = dict(zip(range(len(swept) - len(ENDS), len(swept)), ENDS, strict=True))
    folder.mkdir(parents=True)
    planned = []
    for place, values in enumerate(swept):
        overrides = ["data=acac", *(f"{key}={text(value)}" for key, value in values.items())]
        planned.append({"folder": f"job-{place:04d}", "overrides": overrides, "swept": dict(values)})
        job(folder / f"job-{place:04d}", planned[-1], ends.get(place, "finished"), names, epochs, plots)
    record = {"command": list(command), "started": "2026-01-01T00:00:00", "session": "0", "jobs": planned}
    write(folder / "sweep.json", record)
    return folder


def job(
    folder: Path, planned: Mapping[str, Any], state: str, names: Sequence[str], epochs: int, plots: bool
) -> None:
    """The folder of one job."""
    if state == "not begun":
        return
    folder.mkdir()
    found, done = errors(planned["swept"], names), epochs if state == "finished" else epochs // 2
    record: dict[str, Any] = {
        "state": state,
        "overrides": planned["overrides"],
        "swept": planned["swept"],
        "config": folder.name,
        "attempts": 1,
        "epochs": [done, epochs],
    }
    if state in ("finished", "dropped"):
        record["result"] = result(found, done)
    if state == "failed":
        record["error"] = {"type": "NonFiniteError", "message": "Term 'forces' is NaN in step 12."}
    write(folder / "job.json", record)
    table(folder / "epochs.csv", {n: v for n, v in found.items() if n.startswith("val/")}, done, epochs)
    if plots and state == "finished":
        for name in ("energy", "forces", "stress"):
            (folder / f"parity_{name}.png").write_bytes(parity(name))


def result(found: Mapping[str, float], epoch: int) -> dict[str, Any]:
    """What a job that has ended tells."""
    column = f"val/{SCORE} [{UNITS[SCORE]}]"
    value = found.get(column)
    score = (
        {"name": SCORE, "value": value, "unit": UNITS[SCORE], "epoch": epoch} if value is not None else None
    )
    return {
        "score": score,
        "objective": value,
        "seconds": 12.5,
        "ended": "all epochs are done",
        "metrics": found,
    }


def table(path: Path, last: Mapping[str, float], done: int, epochs: int) -> None:
    """Errors that fall to what they are in the last epoch."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "epoch", "loss", *last])
        for epoch in range(1, done + 1):
            factor = 1 + 9 * math.exp(-6 * epoch / epochs)
            rows.writerow([8 * epoch, epoch, factor, *(factor * value for value in last.values())])


@cache
def parity(name: str) -> bytes:
    """A plot of the shape that trainings draw."""
    figure, file = Figure(figsize=(8.4, 4.4)), BytesIO()
    for axis in figure.subplots(1, 2):
        axis.scatter(range(50), range(50), s=4)
        axis.set_title(name)
    FigureCanvasAgg(figure).print_figure(file, dpi=50)
    return file.getvalue()


def text(value: Any) -> str:
    """A value as an override has it."""
    return value if isinstance(value, str) else json.dumps(value)


def write(path: Path, record: Mapping[str, Any]) -> None:
    """A record as JSON."""
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")

"""What a sweep of 16 settings costs: a process each, one process, all in one step, halved; with graph-pes.

    python -m benchmarks.sweep_cost --data acac/train_300K.xyz --peer ENV/bin/python --epochs 50 --out FOLDER

Eight weights of the forces times two Huber deltas, PaiNN with 32 channels and 2 layers, 450 + 50 molecules of
acetylacetone in batches of 10. The ways take turns, each in processes of its own with one thread. Before
anything is counted, structures and neighbour lists are in the cache and everything is compiled; what the
compiler takes at the first time is told separately.

Where every setting is a process of its own, ``--sample 2`` runs two of the 16, the first and the last, and
multiplies: their costs do not depend on the setting.
FOLDER gets costs.json (every run), costs.csv and table.md (medians), costs.png.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io

from benchmarks.machine import machine
from benchmarks.sweep_cost.cases import SETTINGS, Case, Task, all_cases
from benchmarks.sweep_cost.clock import Cost, adopt_orphans, clocked
from benchmarks.sweep_cost.tables import markdown, plot, rows, write_csv

TRAIN, VALIDATE = 450, 50
WARM_UP = 4
"""Epochs of the runs that have everything compiled, also what is left after halving."""


def main() -> None:
    options = _arguments()
    folder = options.out / "runs"
    if folder.exists():
        raise SystemExit(f"{folder} has the runs of another time: remove it, or choose another --out.")
    folder.mkdir(parents=True)
    adopt_orphans()
    task = _task(options.data, folder.resolve(), options.epochs, options.fractions)
    cases = _chosen(all_cases(options.peer, options.sample), options.cases)
    found = {"machine": machine(), "sweep": _about(options), "first": [], "runs": []}
    found["first"] = [_warm_up(case, task) for case in cases]
    for number in range(options.rounds):
        for case in cases:
            found["runs"].append({"round": number, **_measure(case, task, str(number))})
            _write(options.out, found)
    sys.stdout.write((options.out / "table.md").read_text(encoding="utf-8"))


def _warm_up(case: Case, task: Task) -> dict[str, Any]:
    """Fill the caches; with a compiler, twice, so that its first time can be told."""
    short = replace(task, epochs=min(WARM_UP, task.epochs) if case.is_compiled else 1)
    runs = [_measure(case, short, "first")]
    if case.is_compiled:
        runs.append(_measure(case, short, "second"))
    once = (runs[0]["cpu_s"] - runs[-1]["cpu_s"]) * len(case.settings) / len(SETTINGS)  # not in each process
    return {"case": case.name, "compiling_cpu_s": once, "runs": runs}


def _measure(case: Case, task: Task, number: str) -> dict[str, Any]:
    """Costs of the whole sweep, from those settings that are run."""
    name = case.name.replace(", ", "-").replace(" ", "_")
    home = task.folder / f"{name}-{number}"
    home.mkdir()
    environment = {
        "OMP_NUM_THREADS": "1",
        "PESLOSS_CACHE": str(task.folder / "data"),
        "TORCHINDUCTOR_CACHE_DIR": str(task.folder / "compiler" / name),
    }
    load = os.getloadavg()
    costs = [
        clocked(command, home / f"{place}.log", environment)
        for place, command in enumerate(case.commands(task, home))
    ]
    best = case.best(home)
    return {
        "case": case.name,
        "settings": len(case.settings),
        "load": load,
        **_of_all(case, costs)._asdict(),
        "best": None if best is None else best._asdict(),
    }


def _of_all(case: Case, costs: Sequence[Cost]) -> Cost:
    """Times of all settings, from those of some."""
    factor = len(SETTINGS) / len(case.settings)
    cpu_s, wall_s = (factor * sum(one) for one in ([c.cpu_s for c in costs], [c.wall_s for c in costs]))
    return Cost(cpu_s, wall_s, max(cost.memory_mib for cost in costs))


def _task(data: Path, folder: Path, epochs: int, fractions: Sequence[float]) -> Task:
    frames = list(ase.io.iread(data))
    train, val = folder / "train.xyz", folder / "val.xyz"
    ase.io.write(train, frames[:TRAIN], format="extxyz")
    ase.io.write(val, frames[TRAIN : TRAIN + VALIDATE], format="extxyz")
    return Task(folder, train, val, epochs, fractions)


def _chosen(cases: list[Case], words: Sequence[str]) -> list[Case]:
    """The cases whose name has one of the words; all without words."""
    chosen = [case for case in cases if not words or any(word in case.name for word in words)]
    if not chosen:
        raise SystemExit(
            f"No case has any of {', '.join(words)}; there are: {'; '.join(c.name for c in cases)}."
        )
    return chosen


def _about(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "settings": list(map(str, SETTINGS)),
        "epochs": options.epochs,
        "sample": options.sample,
        "fractions": options.fractions,
    }


def _write(out: Path, found: dict[str, Any]) -> None:
    """All that is known so far: a benchmark of hours may be stopped."""
    (out / "costs.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    found_rows = rows(found["runs"], found["first"], len(SETTINGS))
    write_csv(found_rows, out / "costs.csv")
    (out / "table.md").write_text(markdown(found_rows), encoding="utf-8")
    plot(found_rows, out / "costs.png")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="train_300K.xyz of acetylacetone")
    parser.add_argument("--peer", help="Python of an environment with graph-pes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--sample",
        type=int,
        default=len(SETTINGS),
        help="how many of the settings to run where each is a process of its own",
    )
    parser.add_argument(
        "--fractions", type=float, nargs="+", default=[0.1, 0.2, 0.4], help="of the epochs, to halve after"
    )
    parser.add_argument("--cases", nargs="+", default=[], help="words in the names of those to run")
    return parser.parse_args()


if __name__ == "__main__":
    main()

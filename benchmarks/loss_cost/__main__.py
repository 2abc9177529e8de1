"""What a loss costs, forward and gradient: ours, the least by hand, and the losses of other projects.

    python -m benchmarks.loss_cost --out FOLDER --compile
    python -m benchmarks.loss_cost [PROJECT ...] --out FOLDER --environments ENVIRONMENTS

The first writes own.json and own.md. The second makes an environment for each project, as
``tests.parity.live`` does, times its losses there and our recipes of the same comparisons here, in turn, and
writes recipes.json and recipes.md. Everything runs with one thread, in float32; times are CPU time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.loss_cost.clock import limits
from benchmarks.loss_cost.originals import ORIGINALS
from benchmarks.loss_cost.tables import own_table, recipes_table
from benchmarks.machine import machine
from tests.parity.live import environment

HERE = "benchmarks.loss_cost"
ROOT = Path(__file__).parents[2]
Rows = list[dict[str, Any]]


def main() -> None:
    options = _arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.environments is None:
        _write(options.out, "own", own(options), own_table)
    else:
        _write(options.out, "recipes", recipes(options), recipes_table)


def own(options: argparse.Namespace) -> Rows:
    """Ours and the least by hand, one row a size."""
    command = [sys.executable, "-m", f"{HERE}.own", *(["--compile"] if options.compile else [])]
    return _median([_run([*command, *_limits(options)], {}) for _ in range(options.repeats)])


def recipes(options: argparse.Namespace) -> Rows:
    """Originals and our recipes, one row a case and size."""
    folder = options.environments.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for project in options.projects:
        python = environment(project, folder)
        cases = ["--cases", *(original.case for original in ORIGINALS if original.project == project)]
        settings = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "PESLOSS_PEER": str(folder / project)}
        sides: dict[str, list[Rows]] = {"theirs": [], "ours": []}
        for _ in range(options.repeats):
            for side, program in (("theirs", str(python)), ("ours", sys.executable)):
                command = [program, "-m", f"{HERE}.{side}", project, *cases, *_limits(options)]
                sides[side].append(_run(command, settings))
        for theirs, ours in zip(_median(sides["theirs"]), _median(sides["ours"]), strict=True):
            if not math.isclose(theirs["total"], ours["total"], rel_tol=1e-3):
                raise ValueError(f"{project} {theirs['case']}: {theirs['total']}, ours {ours['total']}.")
            found.append({"project": project, **theirs, "ours": ours["runs"]})
        sys.stdout.write(recipes_table([row for row in found if row["project"] == project]))
        sys.stdout.flush()
    return found


def _median(repeats: list[Rows]) -> Rows:
    """Rows whose numbers are medians over the repeats."""
    return [_together(rows) for rows in zip(*repeats, strict=True)]


def _together(values: Iterable[Any]) -> Any:
    values = list(values)
    if isinstance(values[0], dict):
        return {key: _together(value[key] for value in values) for key in values[0]}
    return values[0] if isinstance(values[0], (str, int)) else statistics.median(values)


def _run(command: list[str], settings: dict[str, str]) -> Rows:
    """Rows that a command prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _write(folder: Path, name: str, rows: Rows, table: Any) -> None:
    content = {"machine": machine(), "rows": rows}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(table(rows), encoding="utf-8")
    if name == "own":
        sys.stdout.write(table(rows))


def _limits(options: argparse.Namespace) -> list[str]:
    return [
        *("--sizes", *options.sizes),
        *("--rounds", str(options.rounds)),
        *("--seconds", str(options.seconds)),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = list(dict.fromkeys(original.project for original in ORIGINALS))
    parser.add_argument("projects", nargs="*", default=known, help="all by default")
    parser.add_argument("--environments", type=Path, help="folder of the projects' environments")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3, help="processes of each side")
    parser.add_argument("--compile", action="store_true", help="time our compiled losses as well")
    limits(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()

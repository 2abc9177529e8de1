"""Our losses against the other projects, installed anew, on new random batches.

``python -m tests.parity.live mace graph_pes`` makes an environment for each project, runs its cases there and
compares ours with what comes out. ``--record`` writes the figures of seed 0 into ``tests/parity/recorded``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.parity.cases import HERE, PROJECTS, cases_of
from tests.parity.compare import assert_equal

ROOT = HERE.parent.parent
TORCH = "torch==2.13.0"


def environment(project: str, folder: Path) -> Path:
    """Python of an environment with the project in it, made if it is not there."""
    python = folder / project / "bin" / "python"
    ready = folder / project / "ready"
    if not ready.exists():
        module = importlib.import_module(f"tests.parity.peers.{project}")
        _run([sys.executable, "-m", "venv", str(folder / project)])
        for packages in ([TORCH], module.REQUIREMENTS):
            if packages:
                pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
                _run([*pip, *packages])
        prepare = getattr(module, "prepare", None)
        if prepare is not None:
            prepare(folder / project)
        ready.touch()
    return python


def originals(project: str, folder: Path, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """What the project's own code says, by case and seed."""
    out = folder / f"{project}.json"
    python = environment(project, folder)
    command = [str(python), "-m", "tests.parity.run", project, "--seeds", str(seed), "--out", str(out)]
    settings = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "PESLOSS_PEER": str(folder / project)}
    _run(command, cwd=ROOT, env={**os.environ, **settings})
    return json.loads(out.read_text(encoding="utf-8"))["cases"]


def _run(command: list[str], **options: Any) -> None:
    """A command, quiet unless it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")


def compared(project: str, folder: Path, seed: int) -> tuple[int, list[str]]:
    """Number of comparisons, and those that failed."""
    failed, number = [], 0
    for name, figures in originals(project, folder, seed).items():
        case = cases_of(project)[name]
        for key, expected in figures.items():
            number += 1
            try:
                assert_equal(case, case.drawing.draw(seed), expected)
            except AssertionError as error:
                failed.append(f"{project} {name}, seed {key}: {error}")
    return number, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("projects", nargs="*", default=list(PROJECTS), help="all by default")
    parser.add_argument("--environments", type=Path, required=True, help="folder for the environments")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31), help="drawn by default")
    parser.add_argument("--record", action="store_true", help="write the figures of seed 0")
    options = parser.parse_args()
    folder = options.environments.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    seed = 0 if options.record else options.seed
    broken = []
    for project in options.projects:
        started = time.monotonic()
        number, failed = compared(project, folder, seed)
        broken += failed
        print(
            f"{project}: {number - len(failed)} of {number} equal, seed {seed}, "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
        if options.record:
            (HERE / "recorded" / f"{project}.json").write_bytes((folder / f"{project}.json").read_bytes())
    print("\n".join(broken))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

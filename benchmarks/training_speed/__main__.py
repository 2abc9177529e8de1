"""Speed of training against graph-pes: steps, epochs of the command lines, start-up, memory, growth.

    python -m benchmarks.training_speed --graph-pes ENV/bin/python --data acac/train_300K.xyz --out FOLDER

The codes take turns, each in processes of its own with one thread.
FOLDER gets results.json, table.md, growth.png and step.png.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import yaml
from ase import Atoms

from benchmarks.machine import machine
from benchmarks.training_speed.plots import growth, steps, table

CUTOFF, BATCH, EPOCHS, TRAIN, VALIDATE = 4.0, 10, 3, 450, 50
HERE = "benchmarks.training_speed"
OURS = [
    *("data=extxyz", "data.test_fraction=0", "loss=energy_forces", "logger=csv"),
    *("model.channels=32", "model.layers=2", f"model.cutoff={CUTOFF}", f"trainer.epochs={EPOCHS}"),
]
Rows = list[dict[str, float]]


class Bench:
    """Runs one code or the other.

    Args:
        graph_pes: Python of an environment with graph-pes; ``None`` to time pesloss alone.
        folder: for files that are made and folders of runs.
        rounds: steps of each batch.
    """

    def __init__(self, graph_pes: str | None, folder: Path, rounds: int) -> None:
        self.graph_pes, self.folder, self.rounds = graph_pes, folder, rounds
        self.codes = ["pesloss", "pesloss compiled", *(["graph-pes"] if graph_pes else [])]

    def steps(self, code: str, batches: Iterable[str]) -> Rows:
        """Times of a training step with each batch."""
        module = "theirs" if code == "graph-pes" else "ours"
        command = [self._python(code), "-m", f"{HERE}.{module}", *batches, "--cutoff", str(CUTOFF)]
        compiled = ["--compile"] if code == "pesloss compiled" else []
        out = _run([*command, "--rounds", str(self.rounds), *compiled])
        return [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    def training(
        self, code: str, train: Path, val: Path, ranks: int = 1, batch: int = BATCH
    ) -> dict[str, float]:
        """A training through the command line: start-up, epoch and peak memory."""
        out = self.folder / "watched.json"
        command = (
            self._their_command(train, val, batch)
            if code == "graph-pes"
            else self._our_command(code, train, val, batch)
        )
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        _run(
            [self._python(code), *(torchrun if ranks > 1 else []), "-m", f"{HERE}.watch", str(out), *command]
        )
        found = json.loads(out.read_text(encoding="utf-8"))
        length = len(found["steps"]) // EPOCHS
        wall, cpu = found["steps"], found["cpu"]
        return {
            "startup_s": cpu[0],
            "startup_wall_s": wall[0],
            "epoch_s": cpu[2 * length] - cpu[length],
            "epoch_wall_s": wall[2 * length] - wall[length],
            "step_wall_ms": 1e3 * statistics.median(np.diff(wall[length : 2 * length])),
            "total_wall_s": found["total"],
            "rss_mib": found["rss_mib"],
        }

    def _our_command(self, code: str, train: Path, val: Path, batch: int) -> list[str]:
        run = self.folder / f"run-{time.time_ns()}"
        compiled = ["trainer.compile=true"] if code == "pesloss compiled" else []
        files = [
            f"data.train={train}",
            f"data.val={val}",
            f"hydra.run.dir={run}",
            f"trainer.batch_size={batch}",
        ]
        return ["pesloss.train", *OURS, *files, *compiled]

    def _their_command(self, train: Path, val: Path, batch: int) -> list[str]:
        data = {
            name: {"+file_dataset": {"path": str(path), "cutoff": CUTOFF}}
            for name, path in (("train", train), ("valid", val))
        }
        painn = {"+PaiNN": {"channels": 32, "layers": 2, "cutoff": CUTOFF}}
        config = {
            "model": {"offset": "+LearnableOffset()", "painn": painn},
            "data": data,
            "loss": ["+PerAtomEnergyLoss()", "+ForceRMSE()"],
            "fitting": {
                "optimizer": {"name": "Adam", "lr": 1e-3},
                "trainer_kwargs": {"max_epochs": EPOCHS, "accelerator": "cpu"},
                "loader_kwargs": {"batch_size": batch, "num_workers": 0, "persistent_workers": False},
            },
            "general": {"root_dir": str(self.folder / "graph-pes"), "progress": "logged"},
            "wandb": None,
        }
        path = self.folder / "graph-pes.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return ["graph_pes.scripts.train", str(path)]

    def _python(self, code: str) -> str:
        return str(self.graph_pes) if code == "graph-pes" else sys.executable


def main() -> None:
    options = _arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.graph_pes, options.out / "runs", options.rounds)
    bench.folder.mkdir(exist_ok=True)
    frames = list(ase.io.iread(options.data))
    train, val = bench.folder / "train.xyz", bench.folder / "val.xyz"
    ase.io.write(train, frames[:TRAIN], format="extxyz")
    ase.io.write(val, frames[TRAIN : TRAIN + VALIDATE], format="extxyz")
    larger = {tiles: bench.folder / f"tiles_{tiles}.xyz" for tiles in options.tiles}
    for tiles, path in larger.items():
        ase.io.write(
            path, [_tiled(frames[k : k + tiles]) for k in range(0, BATCH * tiles, tiles)], format="extxyz"
        )
    batches = {
        "structures": [f"{train}:{size}" for size in options.structures],
        "atoms": [f"{path}:{BATCH}" for path in larger.values()],
        "step": [f"{train}:{BATCH}"],
    }
    found: dict[str, dict[str, Any]] = defaultdict(lambda: defaultdict(list))
    for _ in range(options.repeats):
        for code in bench.codes:
            for kind, chosen in batches.items():
                found[kind][code].append(bench.steps(code, chosen))
            found["training"][code].append([bench.training(code, train, val)])
        for ranks in (1, 2):
            for size in (BATCH, 4 * BATCH):
                found["ranks"][f"{ranks} x {size // ranks}"].append(
                    [bench.training("pesloss", train, val, ranks, size)]
                )
    results = {
        kind: {code: _medians(runs) for code, runs in by_code.items()} for kind, by_code in found.items()
    }
    results = {"machine": machine(), **results}
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.out / "table.md").write_text(table(results), encoding="utf-8")
    growth(results, options.out / "growth.png")
    steps(results, options.out / "step.png")
    sys.stdout.write(table(results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graph-pes", help="Python of an environment with graph-pes")
    parser.add_argument("--data", type=Path, required=True, help="train_300K.xyz of acetylacetone")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--structures", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50, 100])
    parser.add_argument(
        "--tiles", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="molecules a structure"
    )
    return parser.parse_args()


def _tiled(molecules: list[Atoms], distance: float = 20.0) -> Atoms:
    """Molecules in a row, too far apart to see each other: more atoms, the same neighbours of each."""
    whole = Atoms()
    for k, atoms in enumerate(molecules):
        whole += Atoms(atoms.numbers, atoms.positions + np.array([k * distance, 0.0, 0.0]))
    whole.info["energy"] = sum(atoms.get_potential_energy() for atoms in molecules)
    whole.arrays["forces"] = np.concatenate([atoms.get_forces() for atoms in molecules])
    return whole


def _medians(runs: list[Rows]) -> Rows:
    """Median of each number over the repeats."""
    return [
        {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for rows in zip(*runs, strict=True)
    ]


def _run(command: list[str]) -> str:
    """Output of a command with one thread; what it says of errors if it fails."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "STARTED": repr(time.time()),
        "PYTHONPATH": os.getcwd(),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    main()

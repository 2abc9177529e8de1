"""The app, and what befalls its jobs: ``FAULTS='{"1": "raises"}' python -m tests.sweeps.mortal -m``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from hydra.core.hydra_config import HydraConfig

from pesloss import train as app
from pesloss.cli import hydra_app, resumed_arguments
from pesloss.report import final
from pesloss.sweeps import records
from pesloss.training.loggers import Loggers
from tests import files
from tests.trainings import TINY

ROOT = Path(__file__).parents[2]
STEP = 4
"""When it happens: in the second epoch, of two."""


def raise_error(folder: Path) -> None:
    raise RuntimeError("The machine is on fire.")


def kill(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_once(folder: Path) -> None:
    if records.read(folder).attempts == 1:
        kill(folder)


def interrupt(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGINT)


FAULTS = {"raises": raise_error, "killed": kill, "killed once": kill_once, "interrupted": interrupt}


@contextmanager
def befalling(fault: str | None, folder: Path) -> Iterator[None]:
    """Within it, a training has a fault, or its score is not a number; nothing is plotted."""
    original, launched = Loggers.log, app.launched

    def log(self: Loggers, kind: str, row: Mapping[str, float]) -> None:
        if kind == "steps" and row["step"] == STEP and fault in FAULTS:
            FAULTS[fault](folder)
        original(self, kind, row)

    def scored(*args: Any) -> dict[str, Any]:
        result = launched(*args)
        return {**result, "score": {**result["score"], "value": float("nan")}} if fault == "nan" else result

    unplotted = mock.patch.multiple(final, parity_plots=mock.Mock(), learning_curves=mock.Mock())
    with unplotted, mock.patch.object(Loggers, "log", log), mock.patch.object(app, "launched", scored):
        yield


def train(config: Any) -> Any:
    """A job with what its number has in store for it."""
    hydra = HydraConfig.get()
    fault = json.loads(os.environ.get("FAULTS", "{}")).get(str(hydra.job.num))
    with befalling(fault, Path(hydra.runtime.output_dir)):
        return app.train(config)


def swept(folder: Path, *overrides: str, **faults: str) -> subprocess.CompletedProcess[str]:
    """A sweep in a folder, in a process of its own; the faults of its jobs are ``_1="raises"``."""
    folder.mkdir(exist_ok=True)
    if not (folder / "data.xyz").exists():
        files.write(folder / "data.xyz", 30)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "FAULTS": json.dumps({number.lstrip("_"): fault for number, fault in faults.items()}),
    }
    command = [sys.executable, "-m", "tests.sweeps.mortal", "-m", *TINY, "data.train=data.xyz", "check=false"]
    return subprocess.run(
        [*command, *overrides], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def jobs(folder: Path) -> list[records.Record]:
    """What is known of the jobs of the sweep in a folder, in their order."""
    (path,) = folder.glob("multirun/*/sweep.json")
    sweep = records.Sweep(path.parent)
    found = [sweep.record(job) for job in sweep.jobs()]
    return [record for record in found if isinstance(record, records.Record)]


main = hydra_app(train, arguments=resumed_arguments, sweeps=True)

if __name__ == "__main__":
    main()

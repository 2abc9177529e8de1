"""Where inputs are handed in: reading, building, the program, the checks, a step of training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ase import Atoms
from torch import Tensor

from pesloss import build
from pesloss.checks import check
from pesloss.data import read
from pesloss.losses import TotalLoss
from pesloss.losses.nonfinite import explain_nonfinite
from pesloss.losses.properties import as_properties
from pesloss.mistakes import explain
from pesloss.train import main
from tests import trainings
from tests.broken.inputs import written
from tests.broken.registry import Said
from tests.checks.subjects import subject

E_F_S = ("energy", "forces", "stress")


def raising(action: Callable[[], Any]) -> Said:
    """The sentence of the error, if it has one."""
    try:
        action()
    except Exception as error:
        return [("raised", explain(error) or "")]
    return []


def reading(path: Any, properties: Sequence[Any] = E_F_S, **options: Any) -> Said:
    return raising(lambda: read(path, as_properties(properties), **options))


def building(config: dict[str, Any]) -> Said:
    return raising(lambda: build(config))


def loss(terms: Any = E_F_S, **options: Any) -> dict[str, Any]:
    """A config of a loss."""
    terms = terms if isinstance(terms, dict) else {name: {} for name in terms}
    return {"_target_": "pesloss.NormalLoss", "terms": terms, **options}


def program(folder: Path, *arguments: str) -> Said:
    """``python -m pesloss.train``, and what it says on stderr."""
    quiet = ["hydra/hydra_logging=none", "hydra/job_logging=none", f"hydra.run.dir='{folder / 'run'}'"]
    command = patch.object(sys, "argv", ["train", *arguments, *quiet])
    with command, StringIO() as said, redirect_stderr(said), redirect_stdout(StringIO()):
        try:
            main()
        except SystemExit:
            return [("raised", said.getvalue())]
    return []


def starting(folder: Path, frames: Sequence[Atoms], *overrides: str) -> Said:
    """A training up to its first step."""
    path = written(folder, frames)
    (folder / "run").mkdir(exist_ok=True)
    return raising(
        lambda: trainings.prepared(folder / "run", f"data.train={path}", "data.cache=null", *overrides)
    )


def checking(folder: Path, frames: Any, minimised: TotalLoss | None = None, **options: Any) -> Said:
    """``python -m pesloss.check`` without its terminal."""
    report = check(subject(folder, frames, loss=minimised, **options))
    return [(finding.level, finding.message) for finding in report.findings]


def stepping(minimised: TotalLoss, predictions: dict[str, Tensor], batch: dict[str, Tensor]) -> Said:
    """A value of the loss: an error of its own, or why it is not finite."""
    said = list(raising(lambda: minimised(predictions, batch)))
    if said or minimised(predictions, batch).isfinite():
        return said
    return [("error", explain_nonfinite(minimised, predictions, batch))]

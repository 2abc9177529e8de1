"""Successive halving: after a part of the epochs the worst settings stop, and free the machine."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from pesloss.sweeps.pareto import front
from pesloss.sweeps.records import write
from pesloss.sweeps.settings import without_seeds

FILE = "halving.json"
FRONT = ("energy/mae", "forces/mae_component")
"""Errors that span the front; where one of them is not known, the other alone."""


@dataclass(frozen=True)
class Halving:
    """When settings stop, and which.

    At each rung the settings are ranked by their score so far, which has no weight of the loss in it; the
    mean over the seeds of a setting. The best ``keep`` of them go on, and so does every setting that no other
    beats in both the energy and the force error of the last validation. Seeds of a setting stop together.

    Args:
        fractions: of the epochs, after which settings stop; none for no halving.
        keep: share of the settings that goes on.

    Raises:
        ValueError: if a fraction or the share does not lie between 0 and 1, or the fractions do not rise.

    References:
        Jamieson, Talwalkar, AISTATS 2016 (arXiv 1502.07943), algorithm 1.
    """

    fractions: Sequence[float] = ()
    keep: float = 0.5

    def __post_init__(self) -> None:
        rising = list(self.fractions) == sorted(set(self.fractions))
        if not rising or not all(0 < fraction < 1 for fraction in self.fractions):
            raise ValueError(
                "sweep.halving.fractions are shares of the epochs between 0 and 1, one after another, such "
                f"as [0.1, 0.3]; got {list(self.fractions)}."
            )
        if not 0 < self.keep < 1:
            raise ValueError(f"sweep.halving.keep is a share between 0 and 1, got {self.keep}.")

    def epoch(self, rung: int, epochs: int) -> int:
        """After how many of a training's epochs it is at a rung."""
        return math.ceil(self.fractions[rung] * epochs)


@dataclass(frozen=True)
class Candidate:
    """A job at a rung.

    Args:
        swept: what it is set to.
        score: the best so far; ``None`` if there is none.
        errors: of its last validation, as ``epochs.csv`` names them.
        kept: whether it goes on, once that is decided.
    """

    swept: Mapping[str, Any]
    score: float | None
    errors: Mapping[str, float] = field(default_factory=dict)
    kept: bool | None = None

    @property
    def setting(self) -> str:
        """What its seeds have in common."""
        return json.dumps(without_seeds(self.swept), sort_keys=True, default=str)

    def coordinates(self) -> list[float]:
        """Where it stands among others; NaN for what is not known."""
        known = {column.partition(" [")[0]: value for column, value in self.errors.items()}
        return [known.get(f"val/{name}", math.nan) for name in FRONT]


class Decisions:
    """Who goes on at each rung, kept in the folder of the sweep: what is decided stays so.

    Args:
        folder: of the sweep.
        halving: the rule.
    """

    def __init__(self, folder: Path, halving: Halving) -> None:
        self._path, self._halving = folder / FILE, halving
        self._rungs: dict[str, dict[str, Candidate]] = {}
        if self._path.exists():
            content = json.loads(self._path.read_text(encoding="utf-8"))
            self._rungs = {
                rung: {name: Candidate(**one) for name, one in jobs.items()} for rung, jobs in content.items()
            }

    def decide(self, rung: int, jobs: Mapping[str, Candidate]) -> set[str]:
        """Which of the jobs at a rung stop; those of before count among their rivals.

        Args:
            rung: its number.
            jobs: those that are there now, by the name of their folder.
        """
        fraction = f"{self._halving.fractions[rung]:g}"
        known = self._rungs.setdefault(fraction, {})
        everybody = {**jobs, **known}
        going_on = surviving(list(everybody.values()), self._halving.keep)
        for name, job in jobs.items():
            if name not in known:
                known[name] = Candidate(job.swept, job.score, job.errors, job.setting in going_on)
        plain = {at: {name: asdict(job) for name, job in own.items()} for at, own in self._rungs.items()}
        write(self._path, plain)
        return {name for name in jobs if not known[name].kept}


def surviving(jobs: Sequence[Candidate], keep: float) -> set[str]:
    """Settings that go on: the best by their mean score, and the front of their mean errors."""
    seeds: dict[str, list[Candidate]] = defaultdict(list)
    for job in jobs:
        seeds[job.setting].append(job)
    scores = {setting: _mean([job.score for job in own]) for setting, own in seeds.items()}
    ranked = sorted(scores, key=lambda setting: (math.isnan(scores[setting]), scores[setting]))
    points = np.array([np.mean([job.coordinates() for job in seeds[setting]], axis=0) for setting in ranked])
    points = points[:, ~np.isnan(points).all(axis=0)]
    best = ranked[: math.ceil(keep * len(ranked))]
    return {*best, *(ranked[i] for i in front(points))} if points.size else set(best)


def _mean(scores: Sequence[float | None]) -> float:
    known = [score for score in scores if score is not None]
    return fmean(known) if known else math.nan

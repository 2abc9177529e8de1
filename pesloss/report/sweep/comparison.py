"""What a report compares: which errors, of which settings, ranked by which, with which on the front."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import inf, isfinite, nan
from typing import Any, TypeGuard

import numpy as np

from pesloss.names import unknown
from pesloss.report.sweep.reading import ErrorName, Job, Sweep
from pesloss.report.sweep.settings import Mean, Setting, as_key, setting_keys, settings_of
from pesloss.report.sweep.texts import Digits
from pesloss.sweeps.pareto import front

MAIN = ("energy/mae", "forces/mae_component", "stress/mae_component")
"""What is compared if nothing else is asked for, as far as it was predicted."""
SPLITS = ("val", "test")


@dataclass(frozen=True)
class Comparison:
    """The settings of a sweep, compared by some errors.

    Args:
        sweep: what was read.
        errors: those compared; the front is of these.
        score: what the settings are ranked by; ``None`` if there is no error at all.
        settings: the best first, those without a score last.
        front: settings of which no other is as good in every error and better in one, the best first.
    """

    sweep: Sweep
    errors: Sequence[ErrorName]
    score: ErrorName | None
    settings: Sequence[Setting]
    front: Sequence[Setting]

    @cached_property
    def keys(self) -> list[str]:
        """What varies, without seeds."""
        return setting_keys(self.sweep)

    @cached_property
    def columns(self) -> list[ErrorName]:
        """The errors that are told: those compared, and the one that ranks."""
        return list(dict.fromkeys([*self.errors, *filter(None, [self.score])]))

    @property
    def structures(self) -> str:
        """Whose errors are told, in words."""
        return "test" if any(error.split == "test" for error in self.columns) else "validation"

    @property
    def best(self) -> Setting | None:
        """The setting with the lowest score."""
        first = self.settings[0] if self.settings else None
        if first is None or self.score is None or first.is_dropped or first.mean(self.score.column) is None:
            return None
        return first

    @property
    def has_front(self) -> bool:
        """Whether there is anything to weigh: several settings and several errors."""
        return len(self.errors) > 1 and len(self.settings) > 1 and bool(self.front)

    @property
    def pairs(self) -> list[tuple[ErrorName, ErrorName]]:
        """Every two of the errors that are compared."""
        return list(combinations(self.errors, 2))

    def mean(self, setting: Setting, error: ErrorName) -> Mean | None:
        """Mean and spread of an error after all epochs; ``None`` of what was stopped early."""
        return None if setting.is_dropped else setting.mean(error.column)

    def _means(self, error: ErrorName) -> list[Mean]:
        return [mean for setting in self.settings if (mean := setting.mean(error.column)) is not None]

    @cached_property
    def digits(self) -> dict[ErrorName, Digits]:
        """How many decimals each error is told with."""
        return {error: Digits.of(self._means(error)) for error in self.columns}

    def number(self, setting: Setting) -> int | None:
        """The place of a setting on the front, counted from 1."""
        return self._numbers.get(id(setting))

    @cached_property
    def _numbers(self) -> dict[int, int]:
        return {id(member): place for place, member in enumerate(self.front, 1)}

    def best_job(self, setting: Setting) -> Job | None:
        """The seed that stands for a setting where one must."""
        return None if self.score is None else setting.best_job(self.score.column)

    @cached_property
    def numeric_keys(self) -> list[str]:
        """Keys with at least two different numbers among their values, and nothing else but null."""
        return [key for key in self.keys if len(numbers_of(self.settings, key)) > 1]

    def without(self, key: str) -> Iterator[tuple[tuple[tuple[str, Any], ...], list[Setting]]]:
        """The settings that agree in all but one key, with what they agree in, in the order of the jobs."""
        groups: dict[tuple[tuple[str, str], ...], list[Setting]] = {}
        for setting in settings_of(self.sweep):
            rest = tuple((k, as_key(v)) for k, v in setting.values.items() if k != key)
            groups.setdefault(rest, []).append(setting)
        for settings in groups.values():
            yield tuple((k, v) for k, v in settings[0].values.items() if k != key), settings


def compare(sweep: Sweep, split: str = "val", errors: Sequence[str] | None = None) -> Comparison:
    """Rank the settings of a sweep and find the front.

    Args:
        sweep: what was read.
        split: ``val`` or ``test``.
        errors: names such as ``energy/rmse``; ``None`` is the mean absolute errors of energy per atom, of the
            components of the forces and of the stress, as far as they exist.

    Raises:
        ValueError: if there is no such split or error.
    """
    if split not in SPLITS:
        raise ValueError(f"split: {unknown('split', split, SPLITS)}")
    known = {error.name: error for error in sweep.errors(split)}
    chosen = _main(known) if errors is None else _asked(known, errors)
    score = _score(sweep, known, chosen, may_add=errors is None)
    settings = settings_of(sweep)
    on_front = _front(settings, chosen)
    ranked = sorted(settings, key=lambda setting: _rank(setting, score))
    return Comparison(sweep, chosen, score, ranked, [one for one in ranked if id(one) in on_front])


def numbers_of(settings: Sequence[Setting], key: str) -> list[float]:
    """The numbers that a key takes, sorted; none if it also takes what is neither a number nor null."""
    values = [setting.values[key] for setting in settings if setting.values.get(key) is not None]
    if not all(is_number(value) for value in values):
        return []
    return sorted({float(value) for value in values})


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value can be on the axis of a plot."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def mean_or_nan(setting: Setting, error: ErrorName) -> float:
    """The mean over seeds, NaN if there is none."""
    mean = setting.mean(error.column)
    return nan if mean is None else mean.value


def _main(known: dict[str, ErrorName]) -> list[ErrorName]:
    """Energy, forces and stress, or else the mean absolute error of whatever there is."""
    main = [known[name] for name in MAIN if name in known]
    return main or [e for e in known.values() if e.name.endswith(("/mae", "/mae_component"))]


def _asked(known: dict[str, ErrorName], names: Sequence[str]) -> list[ErrorName]:
    plain = [name.partition(" [")[0] for name in names]
    for name in plain:
        if name not in known:
            raise ValueError(f"errors: {unknown('error', name, known)}")
    return [known[name] for name in dict.fromkeys(plain)]


def _score(
    sweep: Sweep, known: dict[str, ErrorName], chosen: list[ErrorName], may_add: bool
) -> ErrorName | None:
    """The error that chose the checkpoints of most jobs, or the first."""
    names = Counter(ErrorName.of(job.score).name for job in sweep.jobs if job.score)
    score = known.get(names.most_common(1)[0][0]) if names else None
    if score is not None and (may_add or score in chosen):
        return score
    return chosen[0] if chosen else None


def _front(settings: Sequence[Setting], errors: Sequence[ErrorName]) -> set[int]:
    """Identities of the settings on the front; what was stopped early is not compared."""
    found = [setting for setting in settings if not setting.is_dropped]
    if not found or not errors:
        return set()
    points = np.array([[mean_or_nan(setting, error) for error in errors] for setting in found], dtype=float)
    return {id(found[place]) for place in front(points)}


def _rank(setting: Setting, score: ErrorName | None) -> tuple[bool, float]:
    value = nan if score is None else mean_or_nan(setting, score)
    return setting.is_dropped, value if isfinite(value) else inf

"""Sweepers that survive: a study by Optuna goes on after a failed trial, and after its process was killed."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext
from omegaconf import OmegaConf

from pesloss.sweeps.locks import holding

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.trial import FrozenTrial

OPTUNA = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
RATE = "hydra.sweeper.max_failure_rate"
NOTHING_IS_BEST = ("No trials are completed yet.", "Record does not exist.")
"""What Optuna says of the best of no trials, in memory and in a database."""
ANOTHER_STUDY = ("Cannot overwrite study direction", "dynamic value space", "different distribution kind")
"""What Optuna says of a stored study that began otherwise."""

log = logging.getLogger(__name__)


def surviving(make: Callable[[Any], Sweeper], config: Any) -> Sweeper:
    """The sweeper of a composed config; one by Optuna has its traps handled, others are as they are.

    Args:
        make: what builds the sweeper that a config names, ready to sweep.
        config: composed for the whole sweep, with Hydra's part.

    Raises:
        ValueError: if there are not as many directions as objectives, or the sampler cannot be continued.
        ImportError: if a study is to be stored by packages that cannot.
    """
    sweeper = config.hydra.sweeper
    if sweeper.get("_target_") != OPTUNA:
        return make(config)
    _check_objectives(sweeper.direction, OmegaConf.select(config, "sweep.objective"))
    if sweeper.storage is not None:
        _check_storage(sweeper)
    return Study(make, config)


class Study(Sweeper):
    """A sweep by Optuna.

    A failed trial ends only itself, unless ``hydra.sweeper.max_failure_rate`` or ``sweep.fail_fast`` says
    otherwise. The sampler is seeded by the config's ``seed`` if it has none of its own: the same command
    suggests the same trials again, and those that are done are answered from their folders. A study with
    ``hydra.sweeper.storage`` gets what is missing of its ``n_trials``.

    Args:
        make: what builds the plugin's sweeper of a config.
        config: composed for the whole sweep.
    """

    def __init__(self, make: Callable[[Any], Sweeper], config: Any) -> None:
        self._make, self._config = make, config

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: Any) -> None:
        """The sweeper that is made is set up where it is made."""

    def sweep(self, arguments: list[str]) -> None:
        config = copy.deepcopy(self._config)
        _tolerate_failures(config)
        try:
            with _continued(config) as done:
                _seed(config, done)
                self._make(config).sweep(arguments)
        except ValueError as error:
            if any(text in str(error) for text in ANOTHER_STUDY):
                raise ValueError(_another_study(config.hydra.sweeper, error)) from error
            if str(error) not in NOTHING_IS_BEST:
                raise
            log.warning("No trial has an objective, so that none is the best.")


def _check_objectives(direction: Any, objective: Any) -> None:
    directions, objectives = (len(x) if OmegaConf.is_list(x) else 1 for x in (direction, objective))
    if directions != objectives or (objectives == 1 and OmegaConf.is_list(objective)):
        raise ValueError(
            f"hydra.sweeper.direction has {directions}, but sweep.objective {objectives}: {objective}. "
            "Give as many of one as of the other, as in hydra.sweeper.direction=[minimize,minimize] "
            "sweep.objective=[energy/mae,forces/mae_component]; a single one without brackets."
        )


def _check_storage(sweeper: Any) -> None:
    if str(sweeper.sampler.get("_target_", "")).endswith("GridSampler"):
        raise ValueError(
            "A study of hydra/sweeper/sampler=grid cannot be continued from hydra.sweeper.storage. Hydra's "
            "own sweeper goes through a grid, too, and goes on where it was: leave hydra/sweeper=optuna out."
        )
    found = importlib.metadata.version("sqlalchemy")
    if not found.startswith("1."):
        raise ImportError(
            f"hydra.sweeper.storage needs SQLAlchemy<2, as Optuna 2 does, and {found} is installed: "
            "pip install 'pesloss[sweeps]'."
        )


def _tolerate_failures(config: Any) -> None:
    """The plugin ends a sweep at its first failed trial unless it is told not to."""
    typed = any(one.partition("=")[0].lstrip("+") == RATE for one in config.hydra.overrides.hydra)
    if not (typed or config.hydra.sweeper.max_failure_rate or OmegaConf.select(config, "sweep.fail_fast")):
        config.hydra.sweeper.max_failure_rate = 1.0


def _seed(config: Any, done: int) -> None:
    """A seeded sampler begins anew in each process, and is not to suggest again what a study has tried."""
    sampler, seed = config.hydra.sweeper.sampler, config.get("seed")
    if "seed" not in sampler:
        return
    if sampler.seed is None and isinstance(seed, int):
        log.info(f"Sampler seeded by seed={seed}: the same command suggests the same trials")
        sampler.seed = seed
    if sampler.seed is not None:
        sampler.seed += done


@contextmanager
def _continued(config: Any) -> Iterator[int]:
    """Open the study if it is stored, put back what was never finished, and ask for the rest of its trials.

    Yields:
        How many trials it has had.
    """
    if config.hydra.sweeper.storage is None:
        yield 0
        return
    sweeper, folder = config.hydra.sweeper, Path(config.hydra.sweep.dir).absolute()
    sweeper.study_name = sweeper.study_name or folder.name
    with _claimed(folder) as alone:
        study = _opened(sweeper)
        others = study.user_attrs.keys() - {str(folder)}
        study.set_user_attr(str(folder), "a folder of its trials")
        if alone and not others:
            _put_back(study)
        if config.sweep.retry_failed:
            _retry(study)
        _ask_for_the_rest(study, sweeper, config.sweep.retry_failed)
        yield len(study.get_trials(deepcopy=False))


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether this is the only process that sweeps into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(holding(folder / ".study.lock", 0))
        except Timeout:
            yield False
        else:
            yield True


def _opened(sweeper: Any) -> OptunaStudy:
    import optuna

    directions = sweeper.direction if OmegaConf.is_list(sweeper.direction) else [sweeper.direction]
    names = [getattr(one, "name", one) for one in directions]
    return optuna.create_study(
        study_name=sweeper.study_name, storage=sweeper.storage, directions=names, load_if_exists=True
    )


def _another_study(sweeper: Any, error: Exception) -> str:
    return (
        f"The study {sweeper.study_name} began with another search space or other directions ({error}) "
        "Give this one another name by hydra.sweeper.study_name."
    )


def _put_back(study: OptunaStudy) -> None:
    """Trials whose process was killed are the next again; their jobs go on from their checkpoints."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study._storage.set_trial_state(trial._trial_id, TrialState.WAITING)


def _retry(study: OptunaStudy) -> None:
    """Failed trials are the next again, as new ones: Optuna changes nothing of a finished trial."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    failed = {_point(trial): trial.params for trial in trials if trial.state == TrialState.FAIL}
    known = {_point(trial) for trial in trials if trial.state != TrialState.FAIL}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        for point, params in failed.items():
            if point not in known:
                study.enqueue_trial(params)


def _ask_for_the_rest(study: OptunaStudy, sweeper: Any, retry: bool) -> None:
    """What is missing of the trials; the plugin would ask for all of them again."""
    from optuna.trial import TrialState

    states = Counter(trial.state for trial in study.get_trials(deepcopy=False))
    failed = 0 if retry else states[TrialState.FAIL]
    left = max(sweeper.n_trials - states[TrialState.COMPLETE] - states[TrialState.RUNNING] - failed, 0)
    log.info(f"Study {study.study_name}: {left} of {sweeper.n_trials} trials left")
    sweeper.n_trials = left


def _point(trial: FrozenTrial) -> str:
    """What a trial tries, or is to try."""
    return json.dumps(trial.params or trial.system_attrs.get("fixed_params", {}), sort_keys=True)

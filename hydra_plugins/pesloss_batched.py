"""Hydra's launcher ``batched``: the jobs of a sweep train together, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class BatchedLauncher(Launcher):
    """Jobs that learn the same network from the same batches are one training of many models.

    The task has to know how, by a function ``together`` that it carries, as that of ``pesloss.train`` does.

    Args:
        copies: models that are computed together at most; ``None`` for all.

    Raises:
        TypeError: if the task does not know how to do several jobs.
    """

    in_this_process = True

    def __init__(self, copies: int | None = None) -> None:
        self.copies = copies

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if not hasattr(task_function, "together"):
            raise TypeError(
                "hydra/launcher=batched is for pesloss.train; this program does one job at a time."
            )
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        setup_globals()
        logs = self._config.hydra.hydra_logging, self._config.hydra.verbose
        Path(str(self._config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        begun = [
            self._begun(list(words), number)
            for number, words in enumerate(job_overrides, start=initial_job_idx)
        ]
        configure_log(*logs)
        self._task.together([(job.cfg, job.hydra_cfg.hydra) for job in begun], self.copies)
        return begun

    def _begun(self, words: list[str], number: int) -> JobReturn:
        """A job with its folder and its config there, as Hydra makes them, and nothing done."""
        config = self._context.config_loader.load_sweep_config(self._config, words)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        return run_job(
            hydra_context=self._context,
            task_function=lambda config: None,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )

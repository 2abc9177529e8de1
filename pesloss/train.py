"""Train a potential: ``python -m pesloss.train loss=uncertainty``; ``--help`` lists the choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from pesloss.cli import hydra_app, resumed_arguments


def train(config: Any) -> float | None:
    """One job: from the composed config to checkpoints, metrics and plots in the folder of the run.

    Returns:
        The best score on the validation structures, for a sweeper to minimise.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    # torch waits until it is needed: --help and a misspelt option are answered without it
    from pesloss import build, train
    from pesloss.training import launch

    job = HydraConfig.get()
    arguments = (plain, job.runtime.output_dir, list(job.overrides.task))
    return launch(build(plain["trainer"]), train.run, *arguments)


def run(fabric: Any, config: dict[str, Any], output_dir: str, overrides: list[str]) -> float | None:
    """The same in each of the processes that train together; they write to the folder of the first."""
    from pesloss.training import MeanPredictor, about, open_console, prepare
    from pesloss.training.metrics import groups_of

    console, folder = open_console(), Path(fabric.broadcast(output_dir))
    fit = prepare(config, fabric, folder, console, overrides)
    with fit.loggers:
        fit.loggers.start(folder, config, fit.progress.step)
        fitted = fit.run(console)
        from pesloss.report import conclude  # plots wait until there is something to plot

        metrics = conclude(
            {name: fit.predict(part) for name, part in fit.data.parts.items() if name != "train"},
            fit.compared,
            folder=folder if fabric.is_global_zero else None,
            console=console,
            title=f"Errors of epoch {fitted.best_epoch}; {fitted.ended}",
            groups=groups_of(fit.data.config_types, fit.data.datasets),
            mean=MeanPredictor(fit.compared, fit.about["means"]),
            about=fitted.as_dict(),
            loss=fit.loss,
            source=fit.data.source,
        )
        fit.loggers.summarize(metrics)
        if fabric.is_global_zero:
            about.conclude(folder, metrics)
    return fitted.best_score


main = hydra_app(train, arguments=resumed_arguments)

if __name__ == "__main__":
    main()

"""Train a potential: ``python -m pesloss.train loss=uncertainty``; ``--help`` lists the choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from pesloss.cli import hydra_app


def train(config: Any) -> float | None:
    """One job: from the composed config to checkpoints, metrics and plots in the folder of the run.

    Returns:
        The best score on the validation structures, for a sweeper to minimise.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    # torch waits until it is needed: --help and a misspelt option are answered without it
    from pesloss.report import conclude
    from pesloss.training import open_console, prepare

    console, folder = open_console(), Path(HydraConfig.get().runtime.output_dir)
    fit = prepare(plain, folder, console)
    with fit.loggers:
        fit.loggers.start(folder, plain)
        fitted = fit.run(console)
        fit.loggers.summarize(conclude(fit, fitted, console))
    return fitted.best_score


main = hydra_app(train)

if __name__ == "__main__":
    main()

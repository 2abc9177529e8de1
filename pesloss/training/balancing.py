"""Which terms and structures a training follows, told while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pesloss.checks.balance import balance
from pesloss.checks.rendering import rich_table
from pesloss.training.console import Watch

if TYPE_CHECKING:
    from pesloss.training.fit import Fit


def tell_balance(fit: Fit, watch: Watch) -> None:
    """Print and log the balance of the loss on the first batches of the training, the same every time.

    Shares of groups of structures are only logged, since ``explain`` prints them at any time. Every rank has
    to call it. The training goes on as if it had not been asked for.
    """
    found = balance(
        fit.loss,
        fit.potential,
        fit.first_batches(fit.trainer.balance_batches),
        groups={"dataset": fit.data.datasets, "config_type": fit.data.config_types},
    )
    progress = fit.progress
    fit.loggers.log("balance", {"step": progress.step, "epoch": progress.epochs + 1, **found.numbers()})
    watch.say(f"after step {progress.step}:")
    watch.show(rich_table(found.of_terms()), rich_table(found.of_cosines()))
    for finding in found.findings():
        watch.say(str(finding))

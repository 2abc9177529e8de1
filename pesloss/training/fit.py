"""Optimizer steps of a potential: exact sums over accumulated batches and ranks, interruptible after each."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pesloss import checkpoint
from pesloss.data import LoadedData, Packed, batches
from pesloss.data.loader import loader
from pesloss.losses import (
    Batch,
    LossOutput,
    Predictions,
    TotalLoss,
)
from pesloss.models import Potential
from pesloss.models.derived import compared_by
from pesloss.training.balancing import tell_balance
from pesloss.training.console import Watch
from pesloss.training.guard import Guard
from pesloss.training.loggers import Loggers
from pesloss.training.metrics import Metric, Metrics, table_columns
from pesloss.training.mixture import Mixture
from pesloss.training.requests import EpochStart, Fitted, Gradient, Place, Prediction, Request, Training
from pesloss.training.state import Progress, random_states, resumable, usable
from pesloss.training.stops import Interrupted, Signals
from pesloss.training.trainer import Trainer

Loaded: TypeAlias = Callable[..., Iterator[Batch]]
"""Structures of a part, batch by batch: ``loaded(part, steps, workers=0)``."""

BEFORE, IN, AFTER = -1, 0, 1
"""Parts of an epoch or a step, see :class:`Place`."""

TIME_IS_OVER = -1
"""What stops a run whose ``max_time`` is over; signals have positive numbers."""


class Fit:
    """One training, from the first step to the last.

    Args:
        trainer: its settings.
        fabric: devices and ranks.
        potential: the model; it keeps the weights of the best epoch at the end.
        loss: what is minimised.
        data: structures.
        optimizer: over the parameters of potential and loss.
        scheduler: of the learning rate; ``None`` to keep it.
        loggers: where numbers go.
        folder: where checkpoints go.
        about: plain data to keep in each checkpoint (config, versions, references).
        started: when the run began, by ``time.monotonic``, for its ``max_time``; now by default.
    """

    def __init__(
        self,
        trainer: Trainer,
        fabric: Fabric,
        *,
        potential: Potential,
        loss: TotalLoss,
        data: LoadedData,
        optimizer: Optimizer,
        scheduler: Any = None,
        loggers: Loggers,
        folder: Path,
        about: Mapping[str, Any],
        started: float | None = None,
    ) -> None:
        self.trainer, self.fabric, self.loss, self.data = trainer, fabric, loss.to(fabric.device), data
        self.potential, self.optimizer, self.scheduler = potential.to(fabric.device), optimizer, scheduler
        self.average = _average(self.potential, trainer.ema_decay)
        self.loggers, self.folder, self.about = loggers, folder, about
        self.mixture = Mixture(data, loss)
        self.required = list(loss.required)
        self.compared = compared_by(loss, potential)
        self.loaded: Loaded = partial(loader, device=fabric.device)
        self.score = trainer.score_of(self.compared)
        self.progress = Progress()
        self.validated: dict[str, float] = {}
        self.guard = Guard(self)
        self.say: Callable[[str], None] = print
        self.told: Callable[[int, int], None] = lambda done, total: None  # that an epoch is over
        for group in optimizer.param_groups:
            # most schedules note it too, but not all; what is lowered is told from what is configured by it
            group.setdefault("initial_lr", group["lr"])
        self._saved = self._ticked = time.monotonic()
        self._started = self._saved if started is None else started

    @property
    def evaluated(self) -> Potential:
        """The model that is validated and kept: the average of the weights if there is one."""
        return self.potential if self.average is None else self.average.module  # pyright: ignore[reportReturnType]

    def training(self, watch: Watch, signals: Signals) -> Training:
        """Train what is left of the epochs and put the best weights into the potential.

        A generator: it asks for gradients and predictions, and whoever runs it computes them.

        Args:
            watch: told of each step and epoch.
            signals: reasons to stop.

        Raises:
            NonFiniteError: if a loss or gradient is not finite and the policy is to stop, or if some of the
                state is not finite; nothing of it is saved.
            SpikeError: the same for a gradient that is far longer than is usual.
            CheckpointError: if a checkpoint cannot be written.
            Interrupted: after a signal to stop; everything is saved.
        """
        self._ticked, self.say = time.monotonic(), watch.say
        self.save()  # a folder that cannot be written is better known before the first step
        self.loss.place(**self.place())
        ended = yield from self._train(watch, signals)
        complete = ended != self._time_is_over
        if (self.folder / checkpoint.BEST).exists():
            best = checkpoint.read(self.folder / checkpoint.BEST)["model"]
            self.potential.load_state_dict(best)
            self.evaluated.load_state_dict(best)
        progress = self.progress
        return Fitted(progress.best_epoch, progress.best_score, self.score, progress.seconds, ended, complete)

    @property
    def steps_of_epoch(self) -> int:
        """Optimizer steps of the first epoch; all have as many, unless budgets of atoms or edges fill up."""
        return len(self._steps(0))

    def save(self) -> None:
        """Write everything that a later step depends on.

        Raises:
            NonFiniteError: if some of it is not finite; the checkpoint before it stays.
        """
        self.guard.check_state("saved")
        self._tick()
        randoms = random_states(self.fabric)
        if self.fabric.is_global_zero:
            content = {**usable(self), **resumable(self), "random": randoms}
            checkpoint.save(self.folder / checkpoint.LAST, content)
        self.fabric.barrier()
        self._saved = time.monotonic()

    def rest(self, part: Packed) -> Iterator[Batch]:
        """This rank's share of some structures that are not learned from, batch by batch in their order."""
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        size = self.trainer.eval_batch_size
        return self.loaded(part, batches(part, size, rank=rank, world_size=world_size))

    def predict(self, part: Packed) -> Iterator[tuple[Batch, Predictions]]:
        """The same with what the potential says of them."""
        self.evaluated.eval()
        for batch in self.rest(part):
            yield batch, self.evaluated(batch, list(self.compared))

    def first_batches(self, num: int) -> list[Batch]:
        """This rank's share of the first batches of the training, as the model is to see them."""
        chosen = self._chosen(0, self.fabric.global_rank, self.fabric.world_size)[:num]
        return [self.loss.prepare(batch) for batch in loader(self.data.train, chosen, self.fabric.device)]

    def _train(self, watch: Watch, signals: Signals) -> Generator[Request, Any, str]:
        """Epoch after epoch; why it ended."""
        while self.progress.epochs < self.trainer.epochs:
            if self._is_late():
                return f"no better {self.score} in {self.trainer.patience} epochs"
            if not self.progress.steps and (reason := (yield EpochStart(self._at(BEFORE)))):
                return reason
            stop = yield from self._epoch(watch, signals)
            if stop and self.progress.epochs < self.trainer.epochs:
                self.save()
                return self._stopped(stop)
        return "all epochs are done"

    def _is_late(self) -> bool:
        patience, progress = self.trainer.patience, self.progress
        return patience is not None and progress.epochs - progress.best_epoch >= patience

    @property
    def _time_is_over(self) -> str:
        return f"its max_time of {self.trainer.max_time} is over"

    def _stopped(self, reason: int) -> str:
        if reason == TIME_IS_OVER:
            return self._time_is_over
        progress = self.progress
        raise Interrupted(
            f"Stopped by {signal.Signals(reason).name} after {progress.epochs} epochs and "
            f"{progress.steps} steps. "
            f"Everything is saved; go on with: python -m pesloss.train resume={self.folder}",
            reason,
        )

    def _epoch(self, watch: Watch, signals: Signals) -> Generator[Request, Any, int]:
        """What is left of an epoch, up to a reason to stop."""
        self.potential.train()
        self.loss.train()
        progress = self.progress
        steps = self._steps(progress.epochs)[progress.steps :]
        chosen = [indices for step in steps for indices in step]
        made = self.loaded(self.data.train, chosen, workers=self.trainer.workers)
        for step in steps:
            row = yield from self._optimize([next(made) for _ in step])
            progress.steps += 1
            if row is not None:
                progress.taken, progress.loss = progress.taken + 1, progress.loss + row["loss"]
                self.loggers.log("steps", row)
                if self.trainer.is_balanced(progress.step):
                    tell_balance(self, watch)
            watch.step(None if row is None else row["loss"])
            if stop := self._attend(signals):
                return stop
        yield from self._close_epoch(watch)
        return self._attend(signals)

    def _at(self, part: int, batch: int = 0) -> Place:
        return Place(self.progress.epochs, self.progress.steps, part, batch)

    def _steps(self, epoch: int) -> list[list[Tensor]]:
        """For each optimizer step, the structures of its batches on this rank."""
        chosen = self._chosen(epoch, self.fabric.global_rank, self.fabric.world_size)
        size = self.trainer.accumulate
        return [chosen[start : start + size] for start in range(0, len(chosen), size)]

    def _chosen(self, epoch: int, rank: int, world_size: int) -> list[Tensor]:
        """A rank's structures of each batch of an epoch."""
        trainer = self.trainer
        return batches(
            self.data.train,
            trainer.batch_size,
            max_atoms=trainer.max_atoms,
            max_edges=trainer.max_edges,
            shuffle=True,
            seed=trainer.shuffle_seed,
            epoch=epoch,
            rank=rank,
            world_size=world_size,
        )

    def _optimize(self, parts: Sequence[Batch]) -> Generator[Request, Any, dict[str, float] | None]:
        """One optimizer step over several batches; its numbers, if it was taken."""
        self.guard.begin()
        parts = [self.loss.prepare(batch) for batch in parts]
        step = None if len(parts) == 1 else self.loss.step(parts, self._looked_ahead(parts))
        self.optimizer.zero_grad()
        outputs: list[LossOutput] = yield Gradient(self._at(IN), parts, step)
        numbers, total = _numbers(outputs), self._norm()
        norm = float(total)
        if not self.guard.admits(parts, numbers["loss"], norm):
            return None
        self._clip(total)
        with _scaled_rates(self.optimizer, self._warmth()) as rate:
            self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.potential)
        self.progress.step += 1
        about = {"step": self.progress.step, "epoch": self.progress.epochs + 1}
        row = {**about, **numbers, "gradient_norm": norm, "learning_rate": rate, **self._skipped()}
        self.loss.advance(**self.place())
        return row | {name: float(value) for name, value in self.loss.monitored().items()}

    def _validate(self) -> Generator[Request, Any, dict[str, Metric]]:
        """Errors on the validation structures."""
        if self.data.val is None:
            return {}
        metrics = Metrics(self.compared)
        for index, batch in enumerate(self.rest(self.data.val)):
            predictions = yield Prediction(self._at(AFTER, index), batch)
            metrics.update(predictions, batch)
        return metrics.compute()

    def place(self) -> dict[str, Any]:
        """Where training stands, for the loss."""
        group = self.optimizer.param_groups[0]
        rate = group["lr"] / group["initial_lr"] * self._warmth()
        return {"epoch": self.progress.epochs, "step": self.progress.step, "learning_rate": rate}

    def _warmth(self) -> float:
        """Share of the learning rate in the first steps."""
        return min(1.0, (self.progress.step + 1) / max(self.trainer.warmup_steps, 1))

    def _looked_ahead(self, parts: Sequence[Batch]) -> Iterator[Predictions] | None:
        """Predictions of all batches of a step, where its loss needs them before the first gradient."""
        if self.loss.linear:
            return None
        return (self.potential(batch, self.required, training=False) for batch in parts)

    def _norm(self) -> Tensor:
        """Length of the gradient of the model; NaN if that of what the loss learns is not finite."""
        modules = (self.potential, self.loss)
        gradients = [[p.grad for p in module.parameters() if p.grad is not None] for module in modules]
        norm, of_loss = map(torch.nn.utils.get_total_norm, gradients)
        return norm + (0 * of_loss).to(norm)

    def _clip(self, norm: Tensor) -> None:
        """Cut the model's gradient to ``clip_norm``."""
        if self.trainer.clip_norm is not None:
            parameters = [p for p in self.potential.parameters() if p.grad is not None]
            torch.nn.utils.clip_grads_with_norm_(parameters, self.trainer.clip_norm, norm)

    def _skipped(self) -> dict[str, float]:
        """How many steps were left out so far, if any may be."""
        return {"skipped": self.progress.skipped} if self.trainer.may_skip else {}

    def _attend(self, signals: Signals) -> int:
        """Between two steps: save if it is time to; whatever rank sees a reason to stop, all do."""
        now = time.monotonic()
        over = self.trainer.seconds is not None and now - self._started > self.trainer.seconds
        stop = signals.number or (TIME_IS_OVER if over else 0)
        save = now - self._saved >= 60 * self.trainer.save_minutes
        if self.fabric.world_size > 1:
            if self.progress.steps % 10:  # asking each other costs time
                return 0
            wishes = torch.tensor([stop, -stop, int(save)], device=self.fabric.device)
            dist.all_reduce(wishes, dist.ReduceOp.MAX)
            number, late, wish = wishes.tolist()
            stop, save = (number or -late), bool(wish)
        if save and not stop:
            self.save()
        return stop

    def _close_epoch(self, watch: Watch) -> Generator[Request, Any, None]:
        """Validate, schedule, save, tell."""
        progress = self.progress
        self.guard.check_epoch()
        self.guard.check_state("validated")
        errors = yield from self._validate()
        self.validated = table_columns(errors, "val")
        score = errors[self.score].value if self.score in errors else None
        if score is not None and not isfinite(score):
            self.guard.refuse_validation(score)
        loss = progress.loss / progress.taken
        progress.epochs, progress.steps, progress.taken, progress.loss = progress.epochs + 1, 0, 0, 0.0
        rate = self.optimizer.param_groups[0]["lr"] * self._warmth()
        if self.scheduler is not None:
            by_score = isinstance(self.scheduler, ReduceLROnPlateau)
            self.scheduler.step(*([loss if score is None else score] if by_score else []))
        self.loss.place(**self.place())
        if score is None or progress.best_score is None or score < progress.best_score:
            progress.best_epoch, progress.best_score = progress.epochs, score
            self._save_best()
        self._tick()
        row = {"step": progress.step, "epoch": progress.epochs, "loss": loss, **self._skipped()}
        row |= self.validated
        if self.mixture.datasets:
            row |= self.mixture.row(torch.cat(self._chosen(progress.epochs - 1, rank=0, world_size=1)))
        self.loggers.log("epochs", {**row, "learning_rate": rate, "seconds": progress.seconds})
        self.save()
        words = "" if score is None else f"val {self.score} {score:.4g} {errors[self.score].unit}"
        watch.epoch(progress.epochs, loss, words)
        self.told(progress.epochs, self.trainer.epochs)

    def _save_best(self) -> None:
        self._tick()
        if self.fabric.is_global_zero:
            checkpoint.save(self.folder / checkpoint.BEST, usable(self))

    def _tick(self) -> None:
        """Count the time since the last tick as training."""
        now = time.monotonic()
        self.progress.seconds += now - self._ticked
        self._ticked = now


@contextmanager
def _scaled_rates(optimizer: Optimizer, factor: float) -> Iterator[float]:
    """Learning rates times a factor, put back afterwards: schedules compute the next from the last."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] *= factor
    try:
        yield float(optimizer.param_groups[0]["lr"])
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _average(potential: Potential, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None
    return AveragedModel(potential, multi_avg_fn=get_ema_multi_avg_fn(decay))


def _numbers(outputs: list[LossOutput]) -> dict[str, float]:
    """Total, values and weights of a step, whose batches each hold a share."""

    def over_batches(shares: list[Tensor]) -> Tensor:
        return torch.stack(shares).double().sum()

    numbers = {"loss": over_batches([output.total.detach() for output in outputs])}
    for name in outputs[0].values:
        numbers[f"value/{name}"] = over_batches([output.values[name] for output in outputs])
    numbers |= {f"weight/{name}": weight.double() for name, weight in outputs[-1].weights.items()}
    numbers["regulariser"] = over_batches([output.regulariser for output in outputs])
    # together, because each number that is read makes the host wait for the device
    return dict(zip(numbers, torch.stack(list(numbers.values())).tolist(), strict=True))

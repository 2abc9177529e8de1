"""Optimizer steps of a potential: exact sums over accumulated batches and ranks, best and last checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pesloss.data import LoadedData, Packed, batches
from pesloss.losses import Batch, LossOutput, Predictions, TotalLoss, explain_nonfinite
from pesloss.models import Potential
from pesloss.names import unknown
from pesloss.training import checkpoint
from pesloss.training.console import Watch
from pesloss.training.loggers import Loggers
from pesloss.training.metrics import KINDS, Errors, Metrics

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class NonFiniteError(ValueError):
    """A loss or gradient is NaN or infinite; the message says whose."""


class Fitted(NamedTuple):
    """How a training ended.

    Args:
        best_epoch: epoch of the checkpoint that was selected.
        best_score: its score on the validation structures; ``None`` if there are none.
        score: name of the score.
        seconds: time the training took.
    """

    best_epoch: int
    best_score: float | None
    score: str
    seconds: float


@dataclass(frozen=True)
class Trainer:
    """How a potential is fitted to its data: every setting that is not model, loss, data or optimizer.

    Args:
        epochs: passes over the training structures.
        batch_size: structures of a batch, on all ranks together.
        accumulate: batches of an optimizer step; the step is the same as with one batch of all of them.
        eval_batch_size: structures of a batch where nothing is learned.
        clip_norm: largest norm of the gradient; ``None`` to leave it.
        score: what selects the best checkpoint, ``<property>/<mae|rmse>`` on the validation structures;
            by default the MAE of the forces, or of the first property of the loss.
        precision: ``float32`` or ``float64``.
        accelerator: as Lightning Fabric takes it, ``auto``, ``cpu``, ``cuda``.
        devices: number of devices.
        threads: of the CPU; ``None`` leaves them to torch. Kernels of small models are too short for more
            than one, and on a busy machine threads that wait for each other are slower by a large factor.

    Raises:
        ValueError: for numbers that make no sense and names that do not exist.
    """

    epochs: int = 100
    batch_size: int = 16
    accumulate: int = 1
    eval_batch_size: int = 64
    clip_norm: float | None = 10.0
    score: str | None = None
    precision: str = "float32"
    accelerator: str = "auto"
    devices: int = 1
    threads: int | None = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "eval_batch_size", "devices", "threads"):
            value = getattr(self, name)
            if name == "threads" and value is None:
                continue
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, or null for no clipping, got {self.clip_norm}.")
        if self.precision not in DTYPES:
            raise ValueError(unknown("precision", self.precision, DTYPES))

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of structures and model."""
        return DTYPES[self.precision]

    def fabric(self) -> Fabric:
        """Devices, ranks and threads of this run."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        precision = "64-true" if self.precision == "float64" else "32-true"
        return Fabric(accelerator=self.accelerator, devices=self.devices, precision=precision)

    def score_of(self, loss: TotalLoss) -> str:
        """Name of the score that selects the best checkpoint.

        Raises:
            ValueError: if the loss does not train such a property.
        """
        trained = list(loss.required)
        known = [f"{name}/{kind}" for name in trained for kind in KINDS]
        if self.score is None:
            return f"{'forces' if 'forces' in trained else trained[0]}/mae"
        if self.score not in known:
            raise ValueError(unknown("score", self.score, known))
        return self.score


class Fit:
    """One training, from the first step to the last.

    Args:
        trainer: its settings.
        fabric: devices and ranks.
        potential: the model; it keeps the weights of the best epoch at the end.
        loss: what is minimised.
        data: structures on the device.
        optimizer: over the parameters of potential and loss.
        scheduler: of the learning rate, stepped once an epoch; ``None`` to keep it.
        loggers: where numbers go.
        folder: where checkpoints go.
        about: plain data to keep in each checkpoint (config, versions, references).
        seed: of the order of the structures.
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
        seed: int = 0,
    ) -> None:
        self.trainer, self.fabric, self.loss, self.data = trainer, fabric, loss.to(fabric.device), data
        self.potential = potential
        self.model, self.optimizer = fabric.setup(potential, optimizer)
        self.scheduler, self.loggers, self.folder, self.about = scheduler, loggers, folder, about
        self.seed, self.step, self.score = seed, 0, trainer.score_of(loss)
        self.required = list(loss.required)
        self.best: tuple[int, float | None] = (0, None)

    def run(self, console: Console) -> Fitted:
        """Train all epochs and put the best weights into the potential.

        Raises:
            NonFiniteError: as soon as a loss or gradient is not finite; nothing of it is saved.
        """
        start = time.monotonic()
        steps = len(self._steps(0))
        with Watch(self.trainer.epochs, steps, console, silent=not self.fabric.is_global_zero) as watch:
            for epoch in range(1, self.trainer.epochs + 1):
                self._epoch(epoch, watch)
        self.potential.load_state_dict(checkpoint.read(self.folder / "best.ckpt")["model"])
        return Fitted(*self.best, self.score, time.monotonic() - start)

    def _epoch(self, epoch: int, watch: Watch) -> None:
        self.potential.train()
        self.loss.train()
        totals = []
        for chosen in self._steps(epoch - 1):
            row = self._optimize([self.data.train.batch(indices) for indices in chosen], epoch)
            totals.append(row["loss"])
            self.loggers.log("steps", row)
            watch.step(row["loss"])
        mean = sum(totals) / len(totals)
        self._close_epoch(epoch, mean, watch)

    def _steps(self, epoch: int) -> list[list[Tensor]]:
        """For each optimizer step, the structures of its batches on this rank."""
        chosen = batches(
            len(self.data.train),
            self.trainer.batch_size,
            shuffle=True,
            seed=self.seed,
            epoch=epoch,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )
        size = self.trainer.accumulate
        return [chosen[start : start + size] for start in range(0, len(chosen), size)]

    def _optimize(self, parts: list[Batch], epoch: int) -> dict[str, float]:
        """One optimizer step over several batches; its numbers."""
        step = None if len(parts) == 1 else self.loss.step(parts, self._looked_ahead(parts))
        self.optimizer.zero_grad()
        outputs = []
        for i, batch in enumerate(parts):
            with self.fabric.no_backward_sync(self.model, enabled=i < len(parts) - 1):
                predictions = self.model(batch, self.required)
                outputs.append(self.loss.evaluate(predictions, batch, step))
                self._check(outputs[-1].total, predictions, batch)
                self.fabric.backward(outputs[-1].total)
        norm = self._clip()
        self.optimizer.step()
        self.step += 1
        about = {"step": self.step, "epoch": epoch}
        return {**about, **_numbers(outputs), "gradient_norm": norm, **self._rates()}

    def _looked_ahead(self, parts: list[Batch]) -> Iterator[Predictions] | None:
        """Predictions of all batches of a step, where its loss needs them before the first gradient."""
        if self.loss.linear:
            return None
        return (self.potential(batch, self.required, training=False) for batch in parts)

    def _check(self, total: Tensor, predictions: Predictions, batch: Batch) -> None:
        value = float(total.detach())
        if not isfinite(value):
            raise NonFiniteError(
                f"Step {self.step + 1}: the loss is {value}. "
                f"{explain_nonfinite(self.loss, predictions, batch)}. {self._sources(batch)}"
            )

    def _sources(self, batch: Batch) -> str:
        rows = batch["index"].tolist()
        names = [f"{row} = {self.data.sources[row]}" for row in rows[:8]]
        return f"Structures of the batch: {', '.join(names)}{' ...' if len(rows) > 8 else ''}."

    def _clip(self) -> float:
        """Norm of the model's gradient, which is then cut to ``clip_norm``."""
        named = {name: p for name, p in self.potential.named_parameters() if p.grad is not None}
        total = torch.nn.utils.get_total_norm([p.grad for p in named.values() if p.grad is not None])
        norm = float(total)
        if not isfinite(norm):
            bad = [name for name, p in named.items() if p.grad is not None and not p.grad.isfinite().all()]
            raise NonFiniteError(f"Step {self.step + 1}: gradients are not finite, of {', '.join(bad)}.")
        if self.trainer.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(named.values(), self.trainer.clip_norm, total)
        return norm

    def _rates(self) -> dict[str, float]:
        return {"learning_rate": self.optimizer.param_groups[0]["lr"]}

    def _close_epoch(self, epoch: int, loss: float, watch: Watch) -> None:
        """Validate, schedule, save, tell."""
        errors = {} if self.data.val is None else self.evaluate(self.data.val)
        name, kind = self.score.rsplit("/", 1)
        score = getattr(errors[name], kind) if name in errors else None
        if self.scheduler is not None:
            by_score = isinstance(self.scheduler, ReduceLROnPlateau)
            self.scheduler.step(*([loss if score is None else score] if by_score else []))
        if score is None or self.best[1] is None or score < self.best[1]:
            self.best = (epoch, score)
            self._save("best.ckpt", epoch)
        self._save("last.ckpt", epoch)
        row = {
            f"val/{prop}/{kind} [{found.unit}]": getattr(found, kind)
            for prop, found in errors.items()
            for kind in KINDS
        }
        self.loggers.log("epochs", {"step": self.step, "epoch": epoch, "loss": loss, **row, **self._rates()})
        words = "" if score is None else f"val {self.score} {score:.4g} {errors[name].unit}"
        watch.epoch(epoch, loss, words)

    def evaluate(self, part: Packed) -> dict[str, Errors]:
        """Errors on some structures."""
        metrics = Metrics(self.loss.required)
        for batch, predictions in self.predict(part):
            metrics.update(predictions, batch)
        return metrics.compute()

    def predict(self, part: Packed) -> Iterator[tuple[Batch, Predictions]]:
        """This rank's share of some structures, with what the potential says of them."""
        self.potential.eval()
        for indices in batches(
            len(part),
            self.trainer.eval_batch_size,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        ):
            batch = part.batch(indices)
            yield batch, self.potential(batch, self.required)

    def _save(self, name: str, epoch: int) -> None:
        if self.fabric.is_global_zero:
            state = {
                "model": self.potential.state_dict(),
                "loss": self.loss.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
                "epoch": epoch,
                "step": self.step,
                "best": list(self.best),
            }
            checkpoint.save(self.folder / name, {**self.about, **state})
        self.fabric.barrier()


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

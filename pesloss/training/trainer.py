"""Every setting of a training that is not model, loss, data or optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pesloss.losses.properties import Property
from pesloss.names import unknown
from pesloss.training.metrics import default_score, scores

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.float32}
"""Floating type of structures and weights; in ``bfloat16`` only the products of matrices are."""

POLICIES = ("stop", "skip", "roll_back")

_COUNTS = ("epochs", "accumulate", "eval_batch_size", "max_bad_steps", "balance_batches", "devices")
_OPTIONAL_COUNTS = ("batch_size", "max_atoms", "max_edges", "patience", "balance_every", "threads")


@dataclass(frozen=True)
class Trainer:
    """How a potential is fitted to its data: every setting that is not model, loss, data or optimizer.

    Args:
        epochs: passes over the training structures.
        batch_size: structures of a batch, on all ranks together; ``None`` with a budget instead.
        max_atoms: budget of a batch, on all ranks together, instead of ``batch_size``.
        max_edges: the same, counted in edges.
        accumulate: batches of an optimizer step; the step is the same as with one batch of all of them.
        shuffle_seed: of the order of the structures, which every epoch has its own of.
        eval_batch_size: structures of a batch where nothing is learned.
        clip_norm: largest norm of the gradient; ``None`` to leave it.
        ema_decay: the model that is validated and kept is the exponential moving average of the weights,
            ``w̄ ← decay · w̄ + (1 − decay) · w`` after each step; ``None`` for the weights themselves.
        warmup_steps: learning rates rise linearly over so many first steps to what the schedule says.
        score: what selects the best checkpoint, an error on the validation structures such as
            ``forces/mae_component`` (the default, if forces are trained) or ``energy/rmse``.
        patience: epochs without a better score after which the training stops; ``None`` for never.
        max_time: time after which the run stops, saved so that it can be resumed: ``hh:mm:ss`` or seconds.
        save_minutes: time between checkpoints within an epoch; there is one after each epoch anyway.
        on_nonfinite: what follows a loss or gradient that is NaN or infinite: ``stop``, ``skip`` the step as
            if its batch did not exist, or ``roll_back`` to the last checkpoint and go on with the next batch.
        max_bad_steps: steps in a row that may be skipped or rolled back before the training stops.
        spike_factor: a gradient so many times as long as the median of the last 200 is a spike; ``None`` for
            no limit.
        on_spike: what follows a spike: ``warn``, ``skip``, ``roll_back`` or ``stop``.
        balance_after: optimizer steps after which to tell which terms and structures the training follows,
            see :func:`pesloss.checks.balance.balance`; ``()`` for none.
        balance_every: the same every so many steps.
        balance_batches: batches of the training to tell it of, the same every time.
        precision: ``float32``, ``float64``, or ``bfloat16`` for matrix products of models that allow it.
        compile: whether the model is compiled; its first steps then take a minute, the others less.
        accelerator: as Lightning Fabric takes it, ``auto``, ``cpu``, ``cuda``.
        devices: number of devices and processes; ``torchrun`` and ``srun`` decide it themselves.
        workers: processes that make batches ahead of each device; 0 to make them in the training's own.
        threads: of the CPU; ``None`` leaves them to torch. Kernels of small models are too short for more
            than one, and on a busy machine threads that wait for each other are slower by a large factor.

    Raises:
        ValueError: for numbers that make no sense and names that do not exist.
    """

    epochs: int = 60
    batch_size: int | None = 16
    max_atoms: int | None = None
    max_edges: int | None = None
    accumulate: int = 1
    shuffle_seed: int = 0
    eval_batch_size: int = 64
    clip_norm: float | None = 10.0
    ema_decay: float | None = None
    warmup_steps: int = 0
    score: str | None = None
    patience: int | None = None
    max_time: str | float | None = None
    save_minutes: float = 10.0
    on_nonfinite: str = "stop"
    max_bad_steps: int = 10
    spike_factor: float | None = None
    on_spike: str = "warn"
    balance_after: Sequence[int] = (100,)
    balance_every: int | None = None
    balance_batches: int = 4
    precision: str = "float32"
    compile: bool = False
    accelerator: str = "auto"
    devices: int = 1
    workers: int = 0
    threads: int | None = 1

    def __post_init__(self) -> None:
        for name in (*_COUNTS, *_OPTIONAL_COUNTS):
            _check_count(name, getattr(self, name), optional=name in _OPTIONAL_COUNTS)
        for name in ("warmup_steps", "workers", "shuffle_seed"):
            _check_count(name, getattr(self, name), least=0)
        for step in self.balance_after:
            _check_count("balance_after", step)
        if (self.batch_size is None) == (self.max_atoms is None and self.max_edges is None):
            raise ValueError(
                "A batch is either of a number of structures (batch_size) or as large as a budget allows "
                f"(batch_size=null with max_atoms or max_edges), got batch_size={self.batch_size}, "
                f"max_atoms={self.max_atoms}, max_edges={self.max_edges}."
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, or null for no clipping, got {self.clip_norm}.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, or be null, got {self.ema_decay}.")
        if not self.save_minutes >= 0:
            raise ValueError(f"save_minutes must not be negative, got {self.save_minutes}.")
        self._check_guard()
        if self.precision not in DTYPES:
            raise ValueError(unknown("precision", self.precision, DTYPES))
        if self.max_time is not None:
            seconds(self.max_time)

    def _check_guard(self) -> None:
        for name, policies in (("on_nonfinite", POLICIES), ("on_spike", ("warn", *POLICIES))):
            if getattr(self, name) not in policies:
                raise ValueError(f"{name}: {unknown('policy', getattr(self, name), policies)}")
        if self.spike_factor is not None and not 1 < self.spike_factor < float("inf"):
            raise ValueError(f"spike_factor must be larger than 1, or be null, got {self.spike_factor}.")
        if self.spike_factor is None and self.on_spike != "warn":
            raise ValueError(
                f"on_spike={self.on_spike} does nothing without spike_factor; 10 is a good one to begin with."
            )

    @property
    def may_skip(self) -> bool:
        """Whether a step may be left out."""
        return not {self.on_nonfinite, self.on_spike} <= {"stop", "warn"}

    def is_balanced(self, step: int) -> bool:
        """Whether to tell of the balance after so many steps."""
        return step in self.balance_after or (
            self.balance_every is not None and step % self.balance_every == 0
        )

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of structures and model."""
        return DTYPES[self.precision]

    @property
    def seconds(self) -> float | None:
        """What ``max_time`` says."""
        return None if self.max_time is None else seconds(self.max_time)

    def score_of(self, properties: Mapping[str, Property]) -> str:
        """Name of the score that selects the best checkpoint.

        Raises:
            ValueError: if no property that is trained has such an error.
        """
        if self.score is None:
            return default_score(properties)
        if self.score not in (known := scores(properties)):
            raise ValueError(unknown("score", self.score, known))
        return self.score


def seconds(time: str | float) -> float:
    """A length of time, as SLURM writes it: ``[days-]hours:minutes:seconds``; or a number of seconds.

    Raises:
        ValueError: if it is neither, or not positive.

    Example:
        >>> seconds("1-12:00:00"), seconds("30:00"), seconds(90)
        (129600.0, 1800.0, 90.0)
    """
    days, dash, clock = str(time).rpartition("-")
    parts = clock.split(":")
    try:
        numbers = [float(part) for part in parts]
        if len(numbers) > 3 or min(numbers) < 0:
            raise ValueError
        total = sum(number * 60**power for power, number in enumerate(reversed(numbers)))
        total += 86400 * int(days) if dash else 0
    except ValueError:
        total = 0.0
    if not total > 0:
        raise ValueError(f"max_time must be a time such as 12:00:00 (hours:minutes:seconds), got {time!r}.")
    return total


def _check_count(name: str, value: object, *, least: int = 1, optional: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")

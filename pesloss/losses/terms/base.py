"""What every term answers: a sum and a count."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from pesloss.losses.batch import Batch, Channels, Predictions, single_structures
from pesloss.losses.properties import Property

FLOATS = (torch.float32, torch.float64)


class Counts(NamedTuple):
    """What a batch contributes to the denominators of a term; both add up over batches and ranks.

    Args:
        counts: what the sums are divided by once the optimizer step is complete, one number a channel.
        labels: number of labelled components with a weight that is not 0.
    """

    counts: Num[Tensor, "channels"]
    labels: Num[Tensor, ""]


class RowSums(NamedTuple):
    """What a batch contributes to the sums of a term, and what each of its rows does.

    Args:
        sums: of the whole batch.
        rows: what each row adds to them; 0 to sums that only count.
        structure: which structure each row belongs to.
    """

    sums: Float[Tensor, "channels"]
    rows: Float[Tensor, "rows channels"]
    structure: Int[Tensor, "rows"]


class Term(nn.Module, ABC):
    """One summand of a loss: ``value = sum / count``, times its weight.

    ``channels`` is how many sums and counts there are. ``linear`` says whether the value of a whole step is
    the sum of what its batches contribute, ``is_mean`` whether the value is the sum of one channel over its
    count and nothing else, ``of_structures`` whether its sums are those of the structures, one by one.

    A term may change the batch before the model sees it (``prepare``), look at the model itself (``attach``),
    learn numbers from the training structures (``fit``) and change from step to step (``advance``). With
    ``monitor`` it keeps numbers worth a look besides its value (``monitored``).

    Args:
        weight: prior weight in the total; 0 removes the term, and nothing is computed for it.

    Raises:
        ValueError: if the weight is negative or not finite.
    """

    channels: int = 1
    linear: bool = True
    is_mean: bool = False
    of_structures: bool = True
    needs_fit: bool = False
    monitor: bool = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = check_weight("weight", weight)

    @property
    @abstractmethod
    def required(self) -> Mapping[str, Property]:
        """Properties that a model must predict for this term, by name."""

    @property
    def labels(self) -> Mapping[str, Property]:
        """Properties that the batch labels for this term, by their key in the batch."""
        return self.required

    @abstractmethod
    def forward(self, predictions: Predictions, batch: Batch) -> Channels:
        """Weighted sums of costs over a batch, connected to the predictions even where they are zero."""

    @abstractmethod
    def count(self, batch: Batch) -> Counts:
        """Denominators, before any prediction is made."""

    def measure(self, predictions: Predictions, batch: Batch) -> tuple[Channels, Counts]:
        """Sums and denominators of a batch, for terms that find both in less time than one by one."""
        return self(predictions, batch), self.count(batch)

    def by_row(self, predictions: Predictions, batch: Batch) -> RowSums:
        """Sums row by row. Unless a term knows better, rows are structures, each measured by itself.

        Waits for the device to learn where structures begin.
        """
        predicted, cut = single_structures(predictions, batch), single_structures(batch, batch)
        rows = [self(*one) for one in zip(predicted, cut, strict=True)]
        sums = self(predictions, batch)
        structure = torch.arange(len(rows), device=sums.device)
        return RowSums(sums, torch.stack(rows) if rows else sums.new_zeros(0, self.channels), structure)

    def is_explicit(self, predictions: Predictions, batch: Batch) -> bool:
        """Whether ``measure_with_slope`` says all there is to differentiate, and ``channels`` is 1."""
        return False

    def explicit_input(self, predictions: Predictions) -> Tensor:
        """The one prediction that such a term depends on."""
        raise NotImplementedError

    def measure_with_slope(
        self, predictions: Predictions, batch: Batch
    ) -> tuple[Float[Tensor, ""], Counts, Float[Tensor, "rows *entry"]]:
        """Sum, denominators, and the derivative of the sum by the prediction over ``slope_factor``."""
        raise NotImplementedError

    @property
    def slope_factor(self) -> float:
        """Number that all derivatives of such a term have in common."""
        return 1.0

    @abstractmethod
    def value(self, sums: Channels, counts: Channels) -> Float[Tensor, ""]:
        """Value of the term from the sum and count of a whole optimizer step."""

    def slope(self, sums: Channels, counts: Channels) -> Channels:
        """Derivative of the value with respect to the sum."""
        return torch.func.grad(self.value)(sums, counts)

    @abstractmethod
    def formula(self) -> str:
        """The value in words and symbols, for those who read the loss."""

    def unit(self) -> str:
        """Unit of what is compared."""
        return ", ".join(dict.fromkeys(prop.unit for prop in self.required.values() if prop.unit))

    def prepare(self, batch: Batch) -> Batch:
        """The batch as the model is to see it in training, with what else this term needs."""
        return batch

    def attach(self, model: nn.Module) -> None:
        """Told once, by whoever trains, the model; for terms that look at it."""

    def fit(self, batch: Batch) -> None:
        """Told the training structures, batch after batch, by who trains; for terms that ``needs_fit``."""

    def fitted(self) -> None:
        """Told that these were all.

        Raises:
            ValueError: if they do not hold what is to be found.
        """

    def advance(self, pool: Callable[[Tensor], Tensor]) -> None:
        """Told that an optimizer step is over.

        Args:
            pool: sum of a tensor over the ranks.
        """

    def monitored(self) -> Mapping[str, Tensor]:
        """Numbers worth a look besides the value, since the step before."""
        return {}


def check_weight(name: str, weight: Any) -> float:
    """A weight as a float.

    Raises:
        ValueError: if it is negative or not finite.
        TypeError: if it is not a number.
    """
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise TypeError(f"{name} must be a number, got {weight!r} of type {type(weight).__name__}.")
    if not (isfinite(weight) and weight >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {weight}.")
    return float(weight)


def compute_dtype(prediction: Tensor, label: Tensor) -> torch.dtype:
    """Precision of a comparison: the finer of the two, and at least float32."""
    if prediction.dtype == label.dtype and label.dtype in FLOATS:
        return label.dtype
    return torch.promote_types(torch.promote_types(prediction.dtype, label.dtype), torch.float32)

"""Comparisons of what follows from predictions and labels, rather than of these themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions, num_rows
from pesloss.losses.properties import Property
from pesloss.losses.terms.base import Counts, RowSums, Term
from pesloss.losses.terms.property import PropertyTerm


class Restated(Term):
    """A quantity made of predictions against one made of labels, with all that a :class:`PropertyTerm` does.

    Args:
        term: compares the two, under the name of its property.
    """

    def __init__(self, term: PropertyTerm) -> None:
        super().__init__(term.weight)
        self.term = term
        self.channels, self.linear, self.is_mean = term.channels, term.linear, term.is_mean
        self.needs_fit = term.needs_fit

    @abstractmethod
    def prediction(self, predictions: Predictions, batch: Batch) -> Tensor:
        """What is compared, of every row."""

    @abstractmethod
    def labelled(self, batch: Batch, predictions: Predictions | None = None) -> Batch:
        """The batch with the label of it, NaN where there is none, and with the weights of its rows.

        Args:
            batch: with the labels that it is made of.
            predictions: everything that is predicted; ``None`` if only what counts is asked for.
        """

    @property
    def monitor(self) -> bool:
        """Whether the comparison keeps numbers worth a look."""
        return self.term.monitor

    @monitor.setter
    def monitor(self, value: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.term.monitor = value

    def forward(self, predictions: Predictions, batch: Batch) -> Tensor:
        return self.term(*self._restated(predictions, batch))

    def count(self, batch: Batch) -> Counts:
        return self.term.count(self.labelled(batch))

    def measure(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, Counts]:
        return self.term.measure(*self._restated(predictions, batch))

    def by_row(self, predictions: Predictions, batch: Batch) -> RowSums:
        return self.term.by_row(*self._restated(predictions, batch))

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        return self.term.value(sums, counts)

    def slope(self, sums: Tensor, counts: Tensor) -> Tensor:
        return self.term.slope(sums, counts)

    def fit(self, batch: Batch) -> None:
        self.term.fit(self.labelled(batch))

    def fitted(self) -> None:
        self.term.fitted()

    def advance(self, pool: Callable[[Tensor], Tensor]) -> None:
        self.term.advance(pool)

    def monitored(self) -> Mapping[str, Tensor]:
        return self.term.monitored()

    def unit(self) -> str:
        return self.term.unit()

    def _restated(self, predictions: Predictions, batch: Batch) -> tuple[Predictions, Batch]:
        made = self.prediction(predictions, batch)
        return {**predictions, self.term.property.name: made}, self.labelled(batch, predictions)


class Vanishing(Restated):
    """A quantity that physics says is zero: every row of it has the label 0."""

    @property
    def labels(self) -> Mapping[str, Property]:
        return {}

    def labelled(self, batch: Batch, predictions: Predictions | None = None) -> Batch:
        prop = self.term.property
        zeros = batch["positions"].new_zeros(num_rows(batch, prop.rows), *prop.shape)
        return {**batch, prop.name: zeros}


def entry(batch: Batch, key: str, what: str) -> Tensor:
    """An entry of the batch that a term needs.

    Raises:
        KeyError: if there is none.
    """
    if key not in batch:
        raise KeyError(f"No '{key}' [{what}] in the batch; found {sorted(batch)}.")
    return batch[key]


def differentiable(batch: Batch, *keys: str) -> Batch:
    """The batch with entries that predictions can be differentiated by; a caller's own leaf stays one."""
    leaves = {key: batch[key] for key in keys}
    made = {k: v if v.requires_grad else v.detach().requires_grad_() for k, v in leaves.items()}
    return {**batch, **made}


def check_connected(name: str, what: Tensor, *leaves: Tensor) -> None:
    """Whether a prediction can be differentiated by geometry.

    Raises:
        RuntimeError: if the batch was not prepared, or the model detaches what it says.
    """
    if not (torch.is_grad_enabled() and what.requires_grad and all(leaf.requires_grad for leaf in leaves)):
        raise RuntimeError(
            f"'{name}' cannot be differentiated by the atoms' positions. The model has to see the batch that "
            "loss.prepare(batch) gives, in training mode, and the loss the same batch."
        )

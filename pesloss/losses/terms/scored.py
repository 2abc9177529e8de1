"""What terms share for which a model predicts more than one number a label: ensembles, variances, logits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions, predicted
from pesloss.losses.properties import Property
from pesloss.losses.reductions import Entries
from pesloss.losses.terms.labelled import LabelledTerm


class ScoredTerm(LabelledTerm):
    """A label against all that is predicted for it, ``outputs``, whose first entry has the label's rows.

    What does not count is replaced before any formula sees it, so that no gradient of it can be NaN.
    """

    outputs: Sequence[Property]

    @property
    def required(self) -> Mapping[str, Property]:
        return {prop.name: prop for prop in self.outputs}

    @abstractmethod
    def score(
        self,
        predicted: Sequence[Float[Tensor, "rows *values"]],
        label: Float[Tensor, "rows *label_entry"],
        batch: Batch,
    ) -> Float[Tensor, "rows *cost"]:
        """Cost of every entry, or of every row.

        Args:
            predicted: the ``outputs``, in their order.
            label: the label.
            batch: the structures they belong to.
        """

    def predicted(self, predictions: Predictions, batch: Batch) -> Tensor:
        return self.found(self.outputs[0], predictions)

    def found(self, prop: Property, predictions: Predictions) -> Tensor:
        """What is predicted of a property.

        Raises:
            KeyError: if it is not.
            ValueError: if it has another shape.
        """
        values = predicted(predictions, prop.name)
        if tuple(values.shape[1:]) != prop.shape:
            wanted = ", ".join([f"{prop.rows}s", *map(str, prop.shape)])
            raise ValueError(f"'{prop.name}' has shape {tuple(values.shape)}, expected ({wanted}).")
        return values

    def costs(self, prediction: Tensor, label: Tensor, entries: Entries, predictions: Predictions) -> Tensor:
        counts = entries.included
        others = [self.found(prop, predictions) for prop in self.outputs[1:]]
        predicted = [_audible(values.to(prediction.dtype), counts) for values in (prediction, *others)]
        score = self.score(predicted, torch.where(_over(counts, label), label, 0), entries.batch)
        cost = torch.where(counts, score, 0)
        return cost if entries.weights is None else cost * entries.weights.to(cost.dtype)


def _over(counts: Bool[Tensor, "rows *cost"], values: Shaped[Tensor, "rows *values"]) -> Tensor:
    """Which costs count, shaped to broadcast over values that may have further axes."""
    return counts.reshape(*counts.shape, *[1] * (values.dim() - counts.dim()))


def _audible(values: Float[Tensor, "rows *values"], counts: Bool[Tensor, "rows *cost"]) -> Tensor:
    """Predictions that count, ones elsewhere; an infinity is made NaN, which no bound or softmax can hide."""
    return torch.where(_over(counts, values), values + 0 * values, 1)


def not_below(values: Float[Tensor, "*shape"], floor: float) -> Float[Tensor, "*shape"]:
    """Values that are at least the floor, with the gradient as if there were none: what is below can rise."""
    return torch.where(values < floor, floor + (values - values.detach()), values)

"""Terms that look at the model alone, such as penalties of its weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pesloss.losses.batch import Batch, Predictions, num_structures
from pesloss.losses.properties import Property
from pesloss.losses.terms.base import Counts, RowSums, Term
from pesloss.names import unknown


class ModelTerm(Term):
    """A number that only the model decides, the same in every batch; give it one method, ``cost``.

    It enters a step once, however many batches and ranks it has: each of them that holds structures is one
    in both sum and count.

    Args:
        weight: prior weight in the total.

    Raises:
        RuntimeError: if no model was attached.
    """

    is_mean = True
    of_structures = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)
        self._model: tuple[nn.Module, ...] = ()

    @abstractmethod
    def cost(self, model: nn.Module) -> Float[Tensor, ""]:
        """What the model costs as it is."""

    @property
    def required(self) -> Mapping[str, Property]:
        return {}

    def attach(self, model: nn.Module) -> None:
        self._model = (model,)  # its parameters are not those of the loss

    def forward(self, predictions: Predictions, batch: Batch) -> Tensor:
        if not self._model:
            raise RuntimeError(f"{type(self).__name__} looks at the model: call loss.attach(model) first.")
        return (_holds_structures(batch) * self.cost(self._model[0])).reshape(1)

    def by_row(self, predictions: Predictions, batch: Batch) -> RowSums:
        sums = self(predictions, batch)
        return RowSums(sums, sums.new_zeros(0, self.channels), batch["ptr"].new_zeros(0))

    def count(self, batch: Batch) -> Counts:
        one = torch.full((), _holds_structures(batch), device=batch["ptr"].device)
        return Counts(one.reshape(1), one)

    def value(self, sums: Tensor, counts: Tensor) -> Tensor:
        return (sums / counts.clamp(min=1)).sum()

    def unit(self) -> str:
        return ""


class WeightPenalty(ModelTerm):
    r"""Sum of powers of the model's weights, so that it fits the labels with small ones.

    .. math:: \Omega = \sum_{k} |\theta_k|^p

    Args:
        pattern: of the parameters' names, with ``*`` and ``?``.
        power: p; 2 for ridge, 1 for lasso.
        weight: prior weight in the total.

    Raises:
        ValueError: if the power is less than 1, or no parameter that is trained has such a name.

    References:
        A. E. Hoerl and R. W. Kennard, Technometrics 12, 55 (1970) (ridge);
        R. Tibshirani, J. R. Stat. Soc. B 58, 267 (1996) (lasso).
    """

    def __init__(self, pattern: str = "*", power: float = 2.0, *, weight: float = 1.0) -> None:
        super().__init__(weight)
        if not 1 <= power < float("inf"):
            raise ValueError(f"power must be at least 1 (its gradient at 0 would be infinite), got {power}.")
        self.pattern, self.power = pattern, power

    def attach(self, model: nn.Module) -> None:
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if not any(fnmatchcase(name, self.pattern) for name in names):
            raise ValueError(unknown("pattern of trained parameters", self.pattern, names))
        super().attach(model)

    def cost(self, model: nn.Module) -> Tensor:
        chosen = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and fnmatchcase(name, self.pattern)
        ]
        return torch.stack([self._powers(parameter).sum() for parameter in chosen]).sum()

    def formula(self) -> str:
        return f"Σ |θ|^{self.power:g} over parameters {self.pattern}"

    def _powers(self, values: Tensor) -> Tensor:
        # the gradient of a general power is 0·∞ at 0
        if self.power == 2:
            return values * values
        return values.abs() if self.power == 1 else values.abs() ** self.power


def _holds_structures(batch: Batch) -> int:
    return int(num_structures(batch) > 0)

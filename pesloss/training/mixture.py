"""Datasets that train together: what each weighs in the loss, and how often it is drawn."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from pesloss.data import LoadedData
from pesloss.losses import TotalLoss, group_code


class Mixture:
    """Weight and sampling of each dataset, which are two things: one scales costs, the other repeats them.

    Of a single dataset there is nothing to say, and ``datasets`` is empty.

    Args:
        data: what is trained on.
        loss: what is minimised.
    """

    def __init__(self, data: LoadedData, loss: TotalLoss) -> None:
        self.datasets = dict(data.trained) if len(data.trained) > 1 else {}
        factors = loss.group_weights.get("dataset", {})
        self.weights = {name: own.weight * factors.get(name, 1.0) for name, own in self.datasets.items()}
        draws = {name: own.structures * own.sampling for name, own in self.datasets.items()}
        self.expected = {name: number / max(sum(draws.values()), 1) for name, number in draws.items()}
        self._codes = torch.from_numpy(data.store.structures["dataset"][data.train.rows])

    def row(self, drawn: Int64[Tensor, "draws"]) -> dict[str, float]:
        """Numbers to log of an epoch, by dataset.

        ``weight/dataset=<name>`` is the weight of the file, times that of the loss for the dataset;
        ``sampling_ratio/dataset=<name>`` is its share of the structures that the epoch takes, and
        ``sampling/dataset=<name>`` how often the epoch is to take each of its own.

        Args:
            drawn: positions of these among the training structures, on all ranks.
        """
        codes = self._codes[drawn]
        numbers = {}
        for name, own in self.datasets.items():
            ratio = (codes == group_code(name)).double().mean()
            kinds = {"weight": self.weights[name], "sampling": own.sampling, "sampling_ratio": float(ratio)}
            numbers |= {f"{kind}/dataset={name}": number for kind, number in kinds.items()}
        return numbers

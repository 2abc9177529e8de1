"""Training steps of pesloss' PaiNN: ``python -m benchmarks.training_speed.ours FILE:STRUCTURES ...``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.training_speed.clock import Code, main
from pesloss import NormalLoss
from pesloss.data import Files
from pesloss.models import PaiNN, Potential


class Ours(Code):
    def __init__(self, path: str, structures: int, cutoff: float, compiled: bool) -> None:
        self.evaluate = NormalLoss({"energy": {"residual": "per_atom"}, "forces": {}})
        files = Files(train=path, val_fraction=0, test_fraction=0, cache=None)
        self.data = files.load(self.evaluate.required, cutoff, torch.float32).train
        self.potential = Potential(PaiNN(channels=32, layers=2, cutoff=cutoff))
        if compiled:
            self.potential.compile(fullgraph=True, dynamic=True)
        self.optimizer = torch.optim.Adam(self.potential.parameters(), lr=1e-3, fused=True)
        self.chosen = torch.arange(structures)

    def collate(self) -> dict[str, Tensor]:
        return self.data.batch(self.chosen)

    def predict(self, batch: dict[str, Tensor], properties: list[str]) -> Any:
        return self.potential(batch, properties)

    def loss(self, predictions: Any, batch: dict[str, Tensor]) -> Tensor:
        return self.evaluate.evaluate(predictions, batch).total

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def size(self) -> dict[str, int]:
        batch = self.collate()
        edges = batch["edge_index"].shape[1]
        return {"structures": len(self.chosen), "atoms": len(batch["numbers"]), "edges": edges}


if __name__ == "__main__":
    main(Ours)

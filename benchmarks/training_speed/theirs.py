"""Training steps of graph-pes' PaiNN, run by a Python that has graph-pes: see ``ours``."""

from __future__ import annotations

import warnings
from typing import Any

import ase.io
import torch
from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.models import AdditionModel, LearnableOffset, PaiNN
from graph_pes.training.loss import ForceRMSE, PerAtomEnergyLoss, TotalLoss

from benchmarks.training_speed.clock import Code, main


class Theirs(Code):
    def __init__(self, path: str, structures: int, cutoff: float, compiled: bool) -> None:
        if compiled:
            raise SystemExit("graph-pes trains models as they are; it has no option to compile them.")
        frames = ase.io.read(path, f":{structures}")
        self.graphs = [AtomicGraph.from_ase(atoms, cutoff) for atoms in frames]
        painn = PaiNN(channels=32, layers=2, cutoff=cutoff)
        self.model = AdditionModel(offset=LearnableOffset(), painn=painn)
        with warnings.catch_warnings():  # of the fit of the offsets, for molecules of one composition
            warnings.simplefilter("ignore")
            self.model.pre_fit_all_components(self.graphs)
        self.model.train()
        self.total = TotalLoss([PerAtomEnergyLoss(), ForceRMSE()])
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def collate(self) -> AtomicGraph:
        return to_batch(self.graphs)

    def predict(self, batch: AtomicGraph, properties: list[Any]) -> Any:
        return self.model.predict(batch, properties)

    def loss(self, predictions: Any, batch: AtomicGraph) -> torch.Tensor:
        return self.total(self.model, batch, predictions).loss_value

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def size(self) -> dict[str, int]:
        batch = self.collate()
        edges = batch.neighbour_list.shape[1]
        return {"structures": len(self.graphs), "atoms": len(batch.Z), "edges": edges}


if __name__ == "__main__":
    main(Theirs)

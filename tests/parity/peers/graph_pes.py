"""The losses of graph-pes: `graph_pes.training.loss`."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tests.parity.cases import case
from tests.parity.drawing import Drawn

REQUIREMENTS = ["graph-pes==1.0.2"]

EFS = ("energy", "forces", "stress")


def graph(drawn: Drawn) -> Any:
    """A batch as graph-pes makes it of graphs of single structures, without neighbours."""
    from graph_pes.atomic_graph import AtomicGraph, to_batch

    ptr, batch = drawn.batch["ptr"].tolist(), drawn.batch
    no_pairs = {"neighbour_list": torch.zeros(2, 0).long(), "neighbour_cell_offsets": torch.zeros(0, 3)}
    graphs = []
    for structure, (start, stop) in enumerate(pairwise(ptr)):
        one = drawn.take([structure])
        properties = {name: one.batch[name] for name in drawn.predictions}
        for name in {"energy", "stress", "virial"} & set(properties):
            properties[name] = properties[name][0]
        made = AtomicGraph.create_with_defaults(
            Z=batch["numbers"][start:stop],
            R=batch["positions"][start:stop],
            cell=batch["cell"][structure],
            properties=properties,
            **no_pairs,
        )
        graphs.append(made)
    return to_batch(graphs)


def total(drawn: Drawn, *losses: Any) -> Tensor:
    """What graph-pes minimises; it adds in the default precision, whatever that of the losses."""
    from graph_pes.training.loss import TotalLoss

    torch.set_default_dtype(torch.float64)
    try:
        found = TotalLoss(losses)(None, graph(drawn), drawn.predictions)  # pyright: ignore[reportArgumentType]
    finally:
        torch.set_default_dtype(torch.float32)
    return found.loss_value


def of_config(drawn: Drawn, section: str) -> Tensor:
    """What graph-pes makes of the loss section of a YAML file."""
    import data2objects
    import graph_pes.training.loss
    import yaml
    from graph_pes.config.shared import parse_loss

    made = data2objects.from_dict(yaml.safe_load(section), modules=[graph_pes.training.loss])
    return total(drawn, *parse_loss(made["loss"]).losses)


MSE = """
loss:
  - +PerAtomEnergyLoss: {metric: MSE, weight: 0.5}
  - +PropertyLoss:
      property: forces
      metric: MSE
      weight: 10.0
"""
MAE = """
loss:
  energy: {+PropertyLoss: {property: energy, metric: MAE}}
  forces: {+PropertyLoss: {property: forces, metric: +MAE()}}
  stress: {+PropertyLoss: {property: stress, metric: MAE, weight: 3}}
"""
HUBER = """
loss:
  energy: {+PerAtomEnergyLoss: {metric: +Huber(), weight: 4}}
  forces: {+PropertyLoss: {property: forces, metric: {+ScaleFreeHuber: {delta: 0.1}}}}
  virial: {+PropertyLoss: {property: virial, metric: {+ScaleFreeHuber: {delta: 0.7}}, weight: 2}}
"""
LOCAL = "loss: {+PropertyLoss: {property: local_energies}}"


@case(loss="graph_pes_energy", labels=("energy",))
def energy(drawn: Drawn) -> Tensor:
    from graph_pes.training.loss import PerAtomEnergyLoss

    return total(drawn, PerAtomEnergyLoss())


@case(loss="graph_pes_energy_forces", overrides={"weights.energy": 4.0, "weights.forces": 2.0})
def energy_forces(drawn: Drawn) -> Tensor:
    from graph_pes.training.loss import ForceRMSE, PerAtomEnergyLoss

    return total(drawn, PerAtomEnergyLoss("RMSE", weight=4), ForceRMSE(weight=2))


@case(loss="graph_pes_huber")
def huber(drawn: Drawn) -> Tensor:
    from graph_pes.training.loss import ForceRMSE, Huber, PerAtomEnergyLoss

    return total(drawn, PerAtomEnergyLoss(Huber(0.01), weight=10), ForceRMSE())


@case(loss="graph_pes_stress", labels=EFS)
def stress(drawn: Drawn) -> Tensor:
    from graph_pes.training.loss import ForceRMSE, PerAtomEnergyLoss, PropertyLoss

    return total(drawn, PerAtomEnergyLoss(), ForceRMSE(3.0), PropertyLoss("stress", "RMSE", 10.0))


@case(config=("graph_pes", MSE))
def metric_mse(drawn: Drawn) -> Tensor:
    return of_config(drawn, MSE)


@case(config=("graph_pes", MAE), labels=EFS)
def metric_mae(drawn: Drawn) -> Tensor:
    return of_config(drawn, MAE)


@case(config=("graph_pes", HUBER), labels=("energy", "forces", "virial"))
def metric_huber(drawn: Drawn) -> Tensor:
    return of_config(drawn, HUBER)


@case(
    config=("graph_pes", LOCAL),
    labels=("local_energies",),
    shapes={"local_energies": ("atom", ())},
)
def local_energies(drawn: Drawn) -> Tensor:
    return of_config(drawn, LOCAL)

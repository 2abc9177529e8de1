"""Ranks 5 and 7: errors that cannot be told, and losses that are not finite."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from pesloss import NormalLoss
from tests.batches import make, parameters, predict
from tests.broken.doors import building, checking, loss, program, raising, reading, starting, stepping
from tests.broken.inputs import changed, crystals, molecules, written
from tests.broken.registry import Said, broken
from tests.checks import subjects


@broken(5, "mace#395", "raised", r"Unknown score 'val_loss'\. Known: .*forces/mae_component")
def a_score_that_nobody_computes(folder: Path) -> Said:
    return starting(folder, crystals(), "loss=normal", "trainer.score=val_loss")


@broken(
    5,
    "metatrain!160",
    "warning",
    r"5 of 5 test structures are train structures too \(.*errors there look smaller than they are",
)
def structures_that_train_and_test(folder: Path) -> Said:
    frames = crystals()
    return checking(folder, frames, test=frames[:5])


@broken(
    5,
    "deepmd-kit#5084",
    "raised",
    r"train\.xyz is given 2 times; a structure may train, validate or test, once",
)
def validation_by_the_training_file(folder: Path) -> Said:
    path = written(folder, crystals())
    return program(folder, "data=extxyz", f"data.train={path}", f"data.val={path}")


@broken(5, "mace#442", "raised", r"'energy' is predicted with shape \(8,\) but labelled with shape \(25,\)")
def energies_of_atoms_for_those_of_structures(folder: Path) -> Said:
    batch = make()
    return stepping(
        NormalLoss({"energy": {}}), predict(parameters(), batch), {**batch, "energy": torch.zeros(25)}
    )


@broken(5, "mace!370", "raised", r"Unknown penalty 'rmse'.* Known: .*squared")
def a_metric_as_a_penalty(folder: Path) -> Said:
    return building(loss({"energy": {"penalty": "rmse"}}))


@broken(
    5,
    "schnetpack#24",
    "raised",
    r"val_fraction and test_fraction must .* leave something to train on, got 0\.6 and 0\.5",
)
def parts_that_are_more_than_the_whole(folder: Path) -> Said:
    return program(folder, "data.val_fraction=0.6", "data.test_fraction=0.5")


@broken(
    5,
    "torchmd-net#184",
    "raised",
    r"Terms .*are not linear in the batch .* needs step\(batches, predictions\)",
)
def a_root_of_a_mean_over_accumulated_batches(folder: Path) -> Said:
    return raising(lambda: NormalLoss({"energy": {"reduction": "root_mean"}}).step([make(), make(seed=1)]))


@broken(7, "fairchem#1568", "error", r"term 'forces': prediction of 'forces' is not finite in structures 102")
def a_force_that_the_model_makes_nan(folder: Path) -> Said:
    batch = make(missing=False, weights=False)
    predictions = {name: value.detach().clone() for name, value in predict(parameters(), batch).items()}
    predictions["forces"][5, 1] = torch.nan
    return stepping(NormalLoss({"energy": {}, "forces": {}}), predictions, batch)


@broken(7, "deepmd-kit#2888", "error", r"term 'energy': label of 'energy' is not finite in structures 103")
def an_infinite_label_in_a_loop_of_ones_own(folder: Path) -> Said:
    batch = make(missing=False, weights=False)
    batch["energy"][3] = torch.inf
    return stepping(NormalLoss({"energy": {}}), predict(parameters(), batch), batch)


@broken(7, "mace#297", "error", r"weight 'weight' is not finite in structures 101")
def a_weight_of_one_over_a_spread_of_zero(folder: Path) -> Said:
    batch = make(missing=False)
    batch["weight"][1] = torch.inf
    return stepping(NormalLoss({"energy": {}}), predict(parameters(), batch), batch)


@broken(7, "torchmd-net#77", "error", r"term 'energy': value is inf in structures 100, 101")
def squares_beyond_single_precision(folder: Path) -> Said:
    batch = {**make(missing=False, weights=False), "energy": torch.full((8,), 1e25)}
    return stepping(NormalLoss({"energy": {}}), {"energy": torch.zeros(8)}, batch)


@broken(
    7,
    "orb-models#117",
    "warning",
    r"Atoms overlap in 1 structure: Au 0 and Au 1 of .*structure 3 .* are 0\.0\d Å apart",
)
def atoms_upon_each_other(folder: Path) -> Said:
    frames = crystals()
    frames[3].positions[1] = frames[3].positions[0] + 0.02
    return checking(folder, frames)


@broken(
    7,
    "schnetpack#5",
    "raised",
    r"train\.xyz, structure 1: positions: atoms H 0 and H 1 are 0 Å apart, closer than",
)
def an_atom_twice(folder: Path) -> Said:
    twins = Atoms("HHO", [[0, 0, 0], [0, 0, 0], [0, 0, 1]])
    twins.calc = SinglePointCalculator(twins, energy=1.0, forces=np.zeros((3, 3)))
    return starting(folder, [*molecules(1), twins], "loss=energy_forces")


@broken(
    7,
    "mace#297",
    "warning",
    r"'forces' is far out in 1 structure of 40, up to .* times the median, and with 100% of "
    r"the sum of squares",
)
def a_gigantic_force(folder: Path) -> Said:
    frames = crystals(40)
    frames[7].calc.results["forces"] = frames[7].calc.results["forces"] * 1e5
    return checking(folder, frames)


@broken(7, "matgl#285", "raised", r"structure 2: it repeats along .* cell span no such space")
def a_cell_of_zeros_that_repeats(folder: Path) -> Said:
    frames = crystals(4)
    frames[2].calc.results.pop("stress")
    frames[2].set_cell(np.zeros((3, 3)))
    ase.io.write(folder / "flat.traj", frames)
    return reading(folder / "flat.traj")


@broken(7, "graph-pes#104", "raised", r"lr: torch\.optim\.Adam takes a number or Tensor, got 'fast'")
def a_learning_rate_in_words(folder: Path) -> Said:
    return starting(folder, crystals(), "loss=normal", "optimizer.lr=fast")


@broken(
    7,
    "deepmd-kit#4985",
    "raised",
    r"on_nonfinite: Unknown policy 'ignore'\. Known: roll_back, skip, stop",
)
def a_policy_that_would_go_on(folder: Path) -> Said:
    return program(folder, "trainer.on_nonfinite=ignore")


@broken(7, "GPUMD!1098", "raised", r"on_spike=skip does nothing without spike_factor")
def a_guard_that_guards_nothing(folder: Path) -> Said:
    return program(folder, "trainer.on_spike=skip")


@broken(7, "torchmd-net#302", "raised", r"clip_norm must be positive, or null for no clipping, got 0")
def a_gradient_clipped_to_nothing(folder: Path) -> Said:
    return program(folder, "trainer.clip_norm=0")


@broken(7, "modelforge#390", "warning", r"Forces sum to zero but turn the molecule in 24 structures")
def forces_in_another_frame_than_positions(folder: Path) -> Said:
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    return checking(
        folder, changed(molecules(), forces=lambda forces: forces @ turned), subjects.loss("energy", "forces")
    )


@broken(7, "orb-models#117", "warning", r"Forces do not sum to zero in 24 structures")
def forces_that_push_the_molecule(folder: Path) -> Said:
    return checking(
        folder, changed(molecules(), forces=lambda forces: forces + 0.3), subjects.loss("energy", "forces")
    )

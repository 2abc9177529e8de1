"""Ranks 4, 6 and 9: weights that do nothing, weights that nobody can choose, weights of atoms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pesloss import NormalLoss, build
from tests.batches import make, parameters, predict
from tests.broken.doors import E_F_S, building, checking, loss, program, reading, starting, stepping
from tests.broken.inputs import crystals, molecules, written
from tests.broken.registry import Said, broken


@broken(
    4,
    "mace#558",
    "raised",
    r"loss\.config_type_weights: Unknown config_type 'Crystal'; did you mean 'crystal'",
)
def a_config_type_that_no_structure_has(folder: Path) -> Said:
    frames = crystals()
    for frame in frames:
        frame.info["config_type"] = "crystal"
    return starting(folder, frames, "loss=normal", "+loss.config_type_weights.Crystal=10")


@broken(4, "mace#1182", "raised", r"loss\.dataset_weights: Unknown dataset 'pt_head'\. Known: train")
def a_weight_of_a_head_of_another_name(folder: Path) -> Said:
    return starting(folder, crystals(), "loss=normal", "+loss.dataset_weights.pt_head=0.001")


@broken(4, "mace#1335", "warning", r"'enrgy_weight' .*looks like .*weight")
def a_misspelt_weight_in_the_file(folder: Path) -> Said:
    frames = crystals()
    for frame in frames[:6]:
        frame.info["enrgy_weight"] = 100.0
    return checking(folder, frames)


@broken(
    4,
    "mace#1335",
    "raised",
    r"huber_delta=0\.01 acts on nothing: no term has a Huber penalty without a delta",
)
def a_delta_that_acts_on_nothing(folder: Path) -> Said:
    return building(loss(huber_delta=0.01))


@broken(4, "mace!504", "raised", r"Schedule: Unknown term 'force'; did you mean 'forces'")
def a_second_stage_of_a_term_that_is_not_there(folder: Path) -> Said:
    schedule = {"_target_": "pesloss.weighting.Schedule", "factors": {"force": {0: 100.0, 50: 1.0}}}
    return building(loss(weighting=schedule))


@broken(4, "mace!1675", "raised", r"Schedule of 'energy' needs at least one point, \{0: 1\.0\}")
def a_second_stage_without_a_beginning(folder: Path) -> Said:
    return building(loss(weighting={"_target_": "pesloss.weighting.Schedule", "factors": {"energy": {}}}))


@broken(4, "mace#1335", "raised", r"weights: Unknown term 'virials'\. Known: energy, forces, stress")
def a_weight_of_a_term_that_the_loss_lacks(folder: Path) -> Said:
    return building(loss(weights={"virials": 0.1}))


@broken(
    4,
    "nequip#407",
    "raised",
    r"A loss needs a term with a weight that is not 0, got weights .*'energy': 0\.0",
)
def weights_that_are_all_zero(folder: Path) -> Said:
    return building(loss(weights=dict.fromkeys(E_F_S, 0.0)))


@broken(4, "mace!100", "raised", r"weights\.energy must be finite and not negative, got -1")
def a_negative_weight(folder: Path) -> Said:
    return building(loss(weights={"energy": -1}))


@broken(
    4,
    "mace#1576",
    "raised",
    r"'weights\.forces' takes a number, got '100'",
)
def a_weight_in_quotes(folder: Path) -> Said:
    return building(loss(weights={"forces": "100"}))


@broken(
    4,
    "mace#558",
    "raised",
    r"structure 0: 'weight' from info 'config_weight' must not be negative or NaN, got nan",
)
def a_weight_that_is_nan(folder: Path) -> Said:
    frames = crystals()
    frames[0].info["config_weight"] = np.nan
    return reading(written(folder, frames))


@broken(
    4,
    "mace#558",
    "raised",
    r"Weights are given for config_type \['surface'\], but the batch has no 'config_type'.*group_code",
)
def config_types_in_a_loop_of_ones_own_that_has_none(folder: Path) -> Said:
    batch = make()
    minimised = NormalLoss({"energy": {}}, config_type_weights={"surface": 3.0})
    return stepping(
        minimised, predict(parameters(), batch), {k: v for k, v in batch.items() if k != "config_type"}
    )


@broken(4, "mace#1182", "warning", r"The term 'energy' has \d+ labelled rows in training, but not one counts")
def a_dataset_of_weight_zero_that_is_the_only_one(folder: Path) -> Said:
    return checking(folder, {"pt": crystals()}, NormalLoss({"energy": {}}, dataset_weights={"pt": 0.0}))


@broken(
    4,
    "nequip!515",
    "raised",
    r"UncertaintyLoss is a weighting already; use NormalLoss with another weighting",
)
def two_weightings_at_once(folder: Path) -> Said:
    return program(folder, "loss=uncertainty", "weighting=soft_adapt")


@broken(
    6,
    "SevenNet#153",
    "raised",
    r"targets\.energy: '1 meV' .* is in eV/atom .*; give for example '1 meV/atom'",
)
def a_target_in_the_unit_of_a_total_energy(folder: Path) -> Said:
    terms = {"energy": {"residual": "per_atom"}, "forces": {}, "stress": {}}
    return building(loss(terms, targets={"energy": "1 meV", "forces": "20 meV/Å", "stress": "1 GPa"}))


@broken(6, "fairchem#1701", "raised", r"No 'stres' in loss\.targets; did you mean 'stress'")
def a_target_of_a_term_that_is_not_there(folder: Path) -> Said:
    return program(folder, "loss=normal", "loss.targets.stres='1 GPa'")


@broken(6, "GPUMD!1692", "raised", r"targets\.forces must be a finite error above 0, got '0 meV/Å'")
def a_target_of_no_error_at_all(folder: Path) -> Said:
    return building(loss(targets={"energy": "1 meV", "forces": "0 meV/Å", "stress": "1 GPa"}))


@broken(
    6,
    "modelforge#271",
    "raised",
    r"The flat lists need one entry a term, got lengths loss_property 3, loss_function_name 3, "
    r"loss_property_weights 2",
)
def two_weights_for_three_terms(folder: Path) -> Said:
    lists = {
        "loss_property": ["energy", "forces", "stress"],
        "loss_function_name": ["mse_energy_per_atom", "mse_forces", "mse_stress"],
        "loss_property_weights": [1, 10],
    }
    return building({"_target_": "pesloss.NormalLoss", **lists})


@broken(6, "metatrain#210", "raised", r"Unknown weighting 'uncertainy'; did you mean 'uncertainty'")
def balance_by_a_misspelt_name(folder: Path) -> Said:
    return building(loss(weighting="uncertainy"))


@broken(9, "nequip!598", "raised", r"Reduction 'per_element' is of atoms, but 'energy' is one a structure")
def elements_of_a_total_energy(folder: Path) -> Said:
    return building(loss({"energy": {"reduction": "per_element"}}))


@broken(9, "mace#1539", "raised", r"Unknown element 'Fe2\+'")
def an_element_that_is_an_ion(folder: Path) -> Said:
    reduction = {"_target_": "pesloss.losses.PerElement", "coefficients": {"Fe2+": 10.0}}
    return building(loss({"forces": {"reduction": reduction}}))


@broken(9, "deepmd/community#5", "raised", r"Mask 'free_atoms' needs 'fixed' in the batch; found \[")
def frozen_atoms_that_nobody_marked(folder: Path) -> Said:
    batch = {key: value for key, value in make().items() if key != "fixed"}
    return stepping(NormalLoss({"forces": {"mask": "free_atoms"}}), predict(parameters(), batch), batch)


@broken(
    9,
    "nequip#561",
    "raised",
    r"'atom_weight' has shape \(8,\), which is no weight of 'forces'; expected one a row \(atoms, 25\)",
)
def weights_of_structures_as_those_of_atoms(folder: Path) -> Said:
    batch = {**make(), "atom_weight": torch.ones(8)}
    return stepping(NormalLoss({"forces": {}}), predict(parameters(), batch), batch)


@broken(
    9,
    "hippynn#152",
    "raised",
    r"'atom_weight' from arrays 'atom_weight' has shape \(\d+, 2\), expected \(\d+,\) or \(\d+, 3\)",
)
def two_weights_an_atom(folder: Path) -> Said:
    frames = molecules(4)
    for frame in frames:
        frame.arrays["atom_weight"] = np.ones((len(frame), 2))
    return reading(written(folder, frames))


@broken(9, "deepmd-kit#1199", "raised", r"'forces' is weighted by 'atom_pref'; found \[")
def a_weight_under_the_name_of_another_code(folder: Path) -> Said:
    batch = make()
    return stepping(
        NormalLoss({"forces": {"weighted_by": ["atom_pref"]}}), predict(parameters(), batch), batch
    )


@broken(9, "n2p2#121", "raised", r"Mask 'free_atoms' chooses atoms, but 'energy' has one row a structure")
def free_atoms_of_an_energy(folder: Path) -> Said:
    return building(loss({"energy": {"mask": "free_atoms"}}))


@broken(9, "nequip#487", "raised", r"Mask 'region' must be true or false, found torch\.float64")
def a_mask_of_numbers(folder: Path) -> Said:
    batch = make()
    batch["region"] = torch.rand(len(batch["batch"]), dtype=torch.float64)
    mask = {"_target_": "pesloss.losses.Given", "key": "region"}
    return stepping(build(loss({"forces": {"mask": mask}})), predict(parameters(), batch), batch)


@broken(9, "ACEpotentials.jl#19", "raised", r"Coefficient of 'O' must be finite and not negative, got -1")
def an_element_of_negative_weight(folder: Path) -> Said:
    reduction = {"_target_": "pesloss.losses.PerElement", "coefficients": {"O": -1.0}}
    return building(loss({"forces": {"reduction": reduction}}))


@broken(9, "GPUMD#513", "raised", r"Components of 'forces' have shape \(6,\), expected \(3,\)")
def six_components_of_a_force(folder: Path) -> Said:
    return building(loss({"forces": {"components": [1.0] * 6}}))

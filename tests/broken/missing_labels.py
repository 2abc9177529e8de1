"""Ranks 1 and 2: a label is not read, a term is dead, labels are missing in part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pesloss import NormalLoss
from tests.batches import make, parameters, predict
from tests.broken.doors import building, checking, loss, program, reading, starting, stepping
from tests.broken.inputs import changed, crystals, molecules, renamed, without, written
from tests.broken.registry import Said, broken
from tests.checks import subjects


@broken(
    1,
    "mace#314",
    "raised",
    r"term 'energy' of weight 1, but no .* info 'my_energy' .*data\.keys\.energy=my_energy, or .*energy=0",
)
def energies_under_a_key_of_ones_own(folder: Path) -> Said:
    return starting(folder, renamed(crystals(), energy="my_energy"), "loss=normal")


@broken(
    1,
    "mace#314",
    "error",
    r"term 'energy' of weight 1, but no .* Unread, but alike: .*'TotEnergy'.*data\.keys\.energy=TotEn",
)
def energies_that_only_a_person_recognises(folder: Path) -> Said:
    return checking(folder, renamed(crystals(), energy="TotEnergy"))


@broken(
    1,
    "CP-MACE#3",
    "error",
    r"'forces'.*no training structure.* Unread, but alike: arrays 'frc'.*data\.keys\.forces=frc",
)
def forces_under_the_name_of_another_code(folder: Path) -> Said:
    return checking(folder, renamed(crystals(), forces="frc"))


@broken(
    1,
    "mace-foundations#31",
    "raised",
    r"'energy' is to be read from 'REF_energy', which no structure .*Unknown key 'REF_energy'",
)
def keys_of_a_script_that_the_published_file_lacks(folder: Path) -> Said:
    path = written(folder, renamed(crystals(), energy="dft_total_energy"))
    return reading(path, keys={"energy": "REF_energy"})


@broken(
    1,
    "mace#364",
    "raised",
    r"no training structure has a label for 'energy'\. Nothing else lies in the files",
)
def labels_that_a_release_of_ase_no_longer_exposes(folder: Path) -> Said:
    frames = crystals()
    for frame in frames:
        frame.calc = None
    return starting(folder, frames, "loss=normal")


@broken(
    1,
    "mace#1518",
    "error",
    r"term 'virial' of weight 1.*no training structure.*data\.keys\.virial=my_virials",
)
def virials_that_look_ignored(folder: Path) -> Said:
    frames = crystals()
    for frame in frames:
        stress = frame.calc.results.pop("stress")
        full = stress[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
        frame.info["my_virials"] = -frame.get_volume() * full
    return checking(folder, frames, subjects.loss("energy", "forces", "virial"))


@broken(
    1,
    "matgl#280",
    "warning",
    r"'stress' is exactly 0 in all 24 labelled structures.* leave it out .* or write NaN",
)
def stresses_that_are_zero_throughout(folder: Path) -> Said:
    return checking(folder, changed(crystals(), stress=lambda stress: 0 * stress))


@broken(
    1,
    "nequip#407",
    "warning",
    r"'energy' is labelled at .* and no term of the loss uses it: \+loss/term@loss\.terms\.energy",
)
def a_loss_of_forces_alone_although_energies_are_there(folder: Path) -> Said:
    return checking(folder, crystals(), subjects.loss("forces"))


@broken(
    1,
    "mace#1031",
    "note",
    r"'energy' is labelled in 'own'.* but not in 'replay'.*learns nothing from these",
)
def a_head_without_labels(folder: Path) -> Said:
    return checking(folder, {"own": crystals(), "replay": without(crystals(seed=1), "energy")})


@broken(
    1,
    "psiflow#28",
    "warning",
    r"'forces' has labels in training, but no structure of validation has one",
)
def labels_that_the_validation_lacks(folder: Path) -> Said:
    return checking(folder, crystals(), val=without(crystals(seed=1), "forces"))


@broken(
    1,
    "SevenNet#87",
    "raised",
    r"'energy' stands in calculator results 'energy' and in info 'REF_energy', and they differ.*keys=",
)
def two_energies_of_which_one_is_meant(folder: Path) -> Said:
    frames = crystals()
    for frame in frames:
        frame.info["REF_energy"] = frame.calc.results["energy"] + 0.3
    return reading(written(folder, frames))


@broken(1, "SevenNet!89", "raised", r"Unknown property in keys 'enrgy'; did you mean 'energy'")
def a_misspelt_property_in_the_keys(folder: Path) -> Said:
    return reading(written(folder, crystals()), keys={"enrgy": "E0"})


@broken(
    1,
    "janus-core#200",
    "warning",
    r"'strss' .*lies unread and looks like 'stress', of which 12 of 24 .*keys: \{stress: strss\}",
)
def a_key_with_a_letter_too_few_in_part_of_the_file(folder: Path) -> Said:
    frames = crystals()
    for frame in frames[::2]:
        frame.info["strss"] = frame.calc.results.pop("stress")
    return checking(folder, frames)


@broken(
    1,
    "mace#1031",
    "warning",
    r"The term 'forces' has \d+ labelled rows in training, but not one counts: weights .* are 0",
)
def labels_all_of_weight_zero(folder: Path) -> Said:
    frames = crystals()
    for frame in frames:
        frame.info["forces_weight"] = 0.0
    return checking(folder, frames)


@broken(
    1,
    "deepmd-kit#3482",
    "raised",
    r"no training structure has a label for 'stress'\. .*\+data\.keys\.stress=\.\.\.",
)
def a_stress_that_a_file_of_molecules_cannot_have(folder: Path) -> Said:
    return starting(folder, molecules(), "loss=normal")


@broken(
    2,
    "mace#939",
    "warning",
    r"'energy' is exactly 0 in 4 of 24 labelled structures.*write NaN; a 0 is learned",
)
def missing_energies_written_as_zero(folder: Path) -> Said:
    frames = crystals()
    return checking(folder, [*changed(frames[:4], energy=lambda energy: 0.0), *frames[4:]])


@broken(2, "mace#939", "warning", r"'forces' is exactly 0 in 5 of 24 .*no symmetry demands")
def missing_forces_written_as_zero(folder: Path) -> Said:
    frames = crystals()
    return checking(folder, [*changed(frames[:5], forces=lambda forces: 0 * forces), *frames[5:]])


@broken(2, "mace#13", "raised", r"structure 0: 'virial' from info 'REF_virial' needs numbers, got 'None'")
def a_virial_that_is_the_word_none(folder: Path) -> Said:
    frames = without(crystals(), "stress")
    frames[0].info["REF_virial"] = "None"
    return reading(written(folder, frames), ("energy", "virial"))


@broken(
    2,
    "fairchem#1568",
    "raised",
    r"structure 3: 'energy' .*holds an infinite number; a missing label is NaN or absent",
)
def a_missing_energy_as_infinity(folder: Path) -> Said:
    frames = crystals()
    frames[3].calc.results["energy"] = np.inf
    return reading(written(folder, frames))


@broken(
    2,
    "orb-models#54",
    "raised",
    r"term 'stress' of weight 1.* remove the term with loss\.weights\.stress=0",
)
def a_loss_with_stress_for_data_without(folder: Path) -> Said:
    return starting(folder, without(crystals(), "stress"), "loss=normal")


@broken(2, "metatrain#1198", "raised", r"'forces' from .* has shape \(3, 3\), expected \(4, 3\)")
def forces_of_the_atoms_that_have_them(folder: Path) -> Said:
    columns = {
        "z": np.array([29] * 4),
        "R": np.eye(4, 3) * 2.0 + np.zeros((5, 4, 3)),
        "F": np.ones((5, 3, 3)),
    }
    np.savez(folder / "part.npz", **columns)
    return reading(folder / "part.npz", ("forces",), units={"energy": "eV", "length": "Å"})


@broken(
    2,
    "deepmd-kit#4563",
    "note",
    r"'stress' has labels in training, but no structure of the test has one",
)
def a_test_without_virials(folder: Path) -> Said:
    return checking(folder, crystals(), test=without(crystals(seed=1), "stress"))


@broken(2, "deepmd-kit!3571", "error", r"term 'energy' .*no training structure has a label for 'energy'")
def energies_that_are_all_nan(folder: Path) -> Said:
    return checking(folder, changed(crystals(), energy=lambda energy: np.nan))


@broken(2, "matgl!403", "raised", r"structure 2: positions of atom 1 must be finite")
def a_missing_position(folder: Path) -> Said:
    frames = crystals()
    frames[2].positions[1] = np.nan
    return reading(written(folder, frames))


@broken(2, "deepchem#1175", "warning", r"All 24 labels of 'stress' .* are equal .*may stand for missing ones")
def one_stress_for_all(folder: Path) -> Said:
    return checking(folder, changed(crystals(), stress=lambda stress: np.full(6, 0.01)))


@broken(2, "metatrain!635", "raised", r"Unknown mask 'masked'\. Known: free_atoms, labelled")
def a_masked_loss_by_its_name_elsewhere(folder: Path) -> Said:
    return building(loss({"forces": {"mask": "masked"}}))


@broken(
    2,
    "schnetpack!455",
    "raised",
    r"'energy' is predicted with shape \(8, 1\) but labelled with shape \(8,\)",
)
def a_prediction_with_one_axis_more_than_its_label(folder: Path) -> Said:
    batch = make()
    energy = predict(parameters(), batch)["energy"]
    return stepping(NormalLoss({"energy": {}}), {"energy": energy[:, None]}, batch)


@broken(2, "fairchem!441", "raised", r"No 'stress' in predictions; found \['energy', 'forces'\]")
def a_model_that_does_not_predict_what_is_labelled(folder: Path) -> Said:
    batch = make()
    predictions = predict(parameters(), batch)
    return stepping(
        NormalLoss({"stress": {}}), {name: predictions[name] for name in ("energy", "forces")}, batch
    )


@broken(2, "nequip#336", "raised", r"'data\.train' has no value yet\. Give it on the command line")
def no_file_at_all(folder: Path) -> Said:
    return program(folder, "data=extxyz")


@broken(2, "mace#1", "raised", r"'energy' has 7 rows for 8 structures \(ptr has 9 offsets\)")
def labels_of_another_batch(folder: Path) -> Said:
    batch = make()
    return stepping(
        NormalLoss({"energy": {}}), {"energy": torch.zeros(7)}, {**batch, "energy": batch["energy"][:7]}
    )

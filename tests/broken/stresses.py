"""Rank 3: sign, unit, order and normalisation of stress and virial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.units import GPa

from pesloss import NormalLoss
from tests.batches import make, parameters, predict
from tests.broken.doors import building, checking, loss, reading, stepping
from tests.broken.inputs import changed, crystals, labelled, molecules, without, written
from tests.broken.registry import Said, broken
from tests.checks import subjects

KBAR = 0.1 * GPa
VASP = [0, 1, 2, 5, 3, 4]
"""Places of ASE's xx yy zz yz xz xy in the order xx yy zz xy yz zx."""


def many(num: int = 40) -> list[Atoms]:
    """Enough cells of two kinds for strain and forces to tell what a stress is."""
    return crystals(num)


@broken(3, "mace#1110", "error", r"stress.*sign.*data\.signs\.stress=-1")
def a_stress_that_is_positive_in_compression(folder: Path) -> Said:
    return checking(folder, changed(many(), stress=lambda stress: -stress))


@broken(3, "QUIP#227", "error", r"virial.*data\.signs\.virial=-1")
def a_virial_with_the_sign_of_a_stress(folder: Path) -> Said:
    frames = many()
    for frame in frames:
        stress = frame.calc.results.pop("stress")[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
        frame.info["virial"] = frame.get_volume() * stress
    return checking(folder, frames)


@broken(3, "mlearn#64", "error", r"stress.*data\.units\.stress=kbar")
def stresses_in_kilobar(folder: Path) -> Said:
    return checking(folder, changed(many(), stress=lambda stress: stress / KBAR))


@broken(3, "matpes#6", "error", r"stress.*data\.units\.stress=GPa")
def stresses_in_gigapascal(folder: Path) -> Said:
    return checking(folder, changed(many(), stress=lambda stress: stress / GPa))


@broken(3, "m3gnet#2", "error", r"data\.units\.stress=kbar.*data\.signs\.stress=-1")
def stresses_of_vasp_by_minus_one_alone(folder: Path) -> Said:
    """The factor is -0.1 GPa, and the description said -1."""
    return checking(folder, changed(many(), stress=lambda stress: -stress / KBAR))


@broken(3, "QUIP#646", "error", r"data\.voigt=vasp")
def shear_in_the_order_of_vasp(folder: Path) -> Said:
    return checking(folder, changed(many(), stress=lambda stress: stress[VASP]))


@broken(
    3,
    "GPUMD!278",
    "raised",
    r"structure 0: 'stress' from .* and 'virial' from .* contradict each other, since virial = "
    r"−volume · stress",
)
def a_stress_and_a_virial_that_disagree(folder: Path) -> Said:
    frames = many(4)
    for frame in frames:
        stress = frame.get_stress(voigt=False)
        frame.info["virial"] = frame.get_volume() * stress
    return reading(written(folder, frames))


@broken(
    3,
    "mace#437",
    "warning",
    r"energies rise by 4\.\d+ times the work against its stress .* should be 1\)",
)
def a_stress_divided_by_the_number_of_atoms(folder: Path) -> Said:
    return checking(folder, changed(many(), stress=lambda stress: stress / 4))


@broken(
    3,
    "nequip#404",
    "raised",
    r"units: 'stress': 'GPa/Å' is a unit of .* expected one of energy / length\^3",
)
def a_unit_that_is_no_stress(folder: Path) -> Said:
    return reading(written(folder, many(4)), units={"stress": "GPa/Å"})


@broken(3, "pyiron_atomistics#1071", "raised", r"Unknown unit 'KBar'; did you mean 'bar'.*kbar")
def a_unit_that_is_a_mystery(folder: Path) -> Said:
    return reading(written(folder, many(4)), units={"stress": "KBar"})


@broken(
    3,
    "deepmd-kit#4201",
    "note",
    r"yz, xz, xy of the stress are zero in all structures .* only the pressure .* NaN in their place",
)
def the_trace_alone(folder: Path) -> Said:
    return checking(folder, changed(many(), stress=lambda stress: np.r_[[stress[:3].mean()] * 3, [0, 0, 0]]))


@broken(
    3,
    "mace-foundations#35",
    "warning",
    r"The stress of 40 structures is not symmetric: its two halves differ by up to",
)
def nine_numbers_in_the_order_of_six(folder: Path) -> Said:
    def mixed(stress: np.ndarray) -> np.ndarray:
        xx, yy, zz, yz, xz, xy = stress
        return np.array([[xx, yy, zz], [xy, yz, xz], [0.0, 0.0, 0.0]])

    frames = many()
    for frame in frames:
        frame.info["REF_stress"] = mixed(frame.calc.results.pop("stress"))
    return checking(folder, frames)


@broken(
    3,
    "apax!221",
    "raised",
    r"'stress' from info 'REF_stress' has shape \(5,\), expected \(3, 3\) or \(9,\) or \(6,\)",
)
def five_numbers(folder: Path) -> Said:
    frames = without(many(4), "stress")
    for frame in frames:
        frame.info["REF_stress"] = np.ones(5)
    return reading(written(folder, frames))


@broken(
    3,
    "matgl#632",
    "raised",
    r"'stress' is predicted with shape \(8, 6\) but labelled with shape \(8, 3, 3\)",
)
def six_predicted_numbers_for_nine_labelled(folder: Path) -> Said:
    batch = make()
    stress = predict(parameters(), batch)["stress"].flatten(1)[:, :6]
    return stepping(NormalLoss({"stress": {}}), {"stress": stress}, batch)


@broken(
    3,
    "allegro#92",
    "raised",
    r"'stress' .*intensive.* cannot be divided by the number of atoms.* residual 'difference'",
)
def a_stress_per_atom(folder: Path) -> Said:
    return building(loss({"stress": {"residual": "per_atom"}}))


@broken(3, "mace#527", "raised", r"needs a volume, but the cell has none")
def a_stress_of_a_molecule(folder: Path) -> Said:
    frames = molecules(4)
    for frame in frames:
        frame.info["REF_stress"] = np.full(6, 0.1)
    return reading(written(folder, frames))


@broken(3, "dpdata#119", "raised", r"the sign of 'stress' must be 1 or -1, got -10")
def a_factor_where_a_sign_belongs(folder: Path) -> Said:
    return reading(written(folder, many(4)), signs={"stress": -10})


@broken(3, "cp2kdata#98", "raised", r"voigt must name each of xx yy zz yz xz xy once.* got 'xx yy zz xy yz'")
def an_order_of_five(folder: Path) -> Said:
    return reading(written(folder, many(4)), voigt="xx yy zz xy yz")


@broken(3, "m3gnet!71", "raised", r"Components of 'stress': Unknown component 'xxyy'; did you mean")
def a_component_of_a_film_by_no_name(folder: Path) -> Said:
    return building(loss({"stress": {"residual": "voigt", "components": {"xxyy": 1.0}}}))


@broken(3, "torchmd-net#116", "error", r"forces.*data\.signs\.forces=-1")
def gradients_that_are_called_forces(folder: Path) -> Said:
    random, frames = np.random.default_rng(0), []
    for _ in range(30):
        frames.append(molecule("CH3CH2OH"))
        frames[-1].rattle(0.05, rng=random)
    return checking(
        folder,
        changed(map(labelled, frames), forces=lambda forces: -forces),
        subjects.loss("energy", "forces"),
    )

"""A stress is symmetric and has all its components."""

from __future__ import annotations

import numpy as np
import pytest

from pesloss.checks.stress import stress_symmetry
from tests.checks.crystals import hot, scanned, strained, without
from tests.checks.subjects import loss, subject


def said(tmp_path, crystals, **options):
    return list(stress_symmetry(subject(tmp_path, crystals, **options)))


def nine(crystals, change):
    """The stress as nine numbers in ``info``, where ASE does not make it symmetric."""
    for atoms in crystals:
        atoms.info["REF_stress"] = change(atoms.get_stress(voigt=False))
    return without(crystals, "stress")


@pytest.mark.parametrize("make", [strained, scanned, hot])
def test_symmetric_and_complete_stresses_are_silent(tmp_path, make):
    assert said(tmp_path, make()) == []


def test_rounded_numbers_are_symmetric(tmp_path):
    assert (
        said(tmp_path, nine(strained(), lambda stress: stress * (1 + 1e-5 * np.arange(9).reshape(3, 3))))
        == []
    )


@pytest.mark.parametrize(("skew", "level"), [(0.01, "note"), (1.0, "warning")])
def test_asymmetry_is_found(tmp_path, skew, level):
    matrix = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]])
    crystals = nine(strained(6), lambda stress: stress + skew * np.abs(stress).max() * matrix)
    (found,) = said(tmp_path, [*crystals, *strained(3, seed=1)])
    assert (found.level, found.count) == (level, 6)
    assert "is not symmetric" in found.message


@pytest.mark.parametrize("make", [strained, hot])
def test_a_mere_pressure_is_found(tmp_path, make):
    crystals = nine(make(), lambda stress: np.eye(3) * np.trace(stress) / 3)
    (found,) = said(tmp_path, crystals)
    assert found.level == "note"
    assert "yz, xz, xy of the stress are zero in all structures" in found.message
    assert "only the pressure seems to have been computed" in found.message


def test_a_stress_in_the_plane_is_found(tmp_path):
    in_plane = np.outer([1, 1, 0], [1, 1, 0])
    (found,) = said(tmp_path, nine(hot(), lambda stress: stress * in_plane))
    assert "zz, yz, xz of the stress are zero" in found.message
    assert "not all of it seems" in found.message


def test_the_symmetry_of_a_crystal_makes_shear_vanish(tmp_path):
    assert said(tmp_path, nine(scanned(), lambda stress: np.diag(np.diag(stress)))) == []


def test_missing_stresses_are_silent(tmp_path):
    crystals = without(strained(), "stress")
    assert said(tmp_path, crystals) == []
    assert said(tmp_path, crystals, loss=loss("energy")) == []

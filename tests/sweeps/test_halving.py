"""Who goes on at a rung: the best by score, and whoever no other beats in both errors."""

from __future__ import annotations

import json

import pytest

from pesloss.losses import PROPERTIES
from pesloss.sweeps.halving import FRONT, Candidate, Decisions, Halving, surviving
from pesloss.training.metrics import scores


def candidate(score: float | None, energy: float, forces: float, **swept) -> Candidate:
    errors = dict(zip((f"val/{name} [x]" for name in FRONT), (energy, forces), strict=True))
    return Candidate(swept, score, errors)


def weights(going_on: set[str]) -> set[int]:
    return {json.loads(setting)["weight"] for setting in going_on}


def test_the_front_is_of_errors_that_there_are():
    assert set(FRONT) <= set(scores({name: PROPERTIES[name] for name in ("energy", "forces")}))


def test_the_best_half_goes_on_and_so_does_the_front():
    """The fourth has the worst forces and the best energies; the third is beaten in both."""
    errors = [(3.0, 10.0), (4.0, 11.0), (5.0, 12.0), (1.0, 50.0)]
    jobs = [candidate(forces, energy, forces, weight=i) for i, (energy, forces) in enumerate(errors)]
    assert weights(surviving(jobs, keep=0.5)) == {0, 1, 3}
    assert weights(surviving(jobs, keep=0.01)) == {0, 3}


def test_seeds_stop_together():
    jobs = [
        candidate(f, 1.0, f, weight=w, seed=s)
        for w, s, f in ((0, 0, 1.0), (0, 1, 9.0), (1, 0, 4.0), (1, 1, 4.1))
    ]
    assert weights(surviving(jobs, keep=0.5)) == {1}


def test_without_energies_the_forces_decide():
    jobs = [Candidate({"weight": i}, float(i), {"val/forces/mae_component [x]": float(i)}) for i in range(4)]
    assert weights(surviving(jobs, keep=0.5)) == {0, 1}


def test_without_a_score_nobody_is_best():
    jobs = [Candidate({"weight": 0}, None), Candidate({"weight": 1}, 2.0)]
    assert weights(surviving(jobs, keep=0.5)) == {1}


def test_what_is_decided_stays_so(tmp_path):
    halving = Halving([0.5], keep=0.5)
    jobs = {str(i): candidate(float(i), float(i), float(i), weight=i) for i in range(4)}
    assert Decisions(tmp_path, halving).decide(0, jobs) == {"2", "3"}
    better = {"0": candidate(9.0, 9.0, 9.0, weight=0), "2": candidate(0.0, 0.0, 0.0, weight=2)}
    assert Decisions(tmp_path, halving).decide(0, better) == {"2"}
    later = {"new": candidate(1.5, 1.5, 1.5, weight=7)}
    assert Decisions(tmp_path, halving).decide(0, later) == set()


@pytest.mark.parametrize("fractions", [[0.0], [1.0], [0.3, 0.1], [0.2, 0.2]])
def test_fractions_rise_between_nothing_and_everything(fractions):
    with pytest.raises(ValueError, match=r"sweep\.halving\.fractions"):
        Halving(fractions)


@pytest.mark.parametrize("keep", [0.0, 1.0, -1.0])
def test_some_go_on_and_some_do_not(keep):
    with pytest.raises(ValueError, match=r"sweep\.halving\.keep"):
        Halving([0.5], keep)

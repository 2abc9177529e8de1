"""A loss in words: every term says what it is, with every number that is in it."""

import subprocess
import sys

import pytest
from hydra import compose, initialize_config_module

import pesloss
from pesloss.losses import Huber, PropertyTerm, TotalLoss
from pesloss.losses.formulas import formulas, remarks
from tests.parts import LOSSES, PENALTIES, REDUCTIONS, RESIDUAL_OF, RESIDUALS
from tests.test_conf import options


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_says_what_it_is(name):
    loss = LOSSES[name]()
    lines = formulas(loss)
    assert [line.name for line in lines] == list(loss.by_name)
    assert all(line.weight and line.value for line in lines)


@pytest.mark.parametrize("name", options("loss"))
@pytest.mark.parametrize("faithful", [False, True])
def test_every_config_says_what_it_is(name, faithful):
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        node = compose("explain", [f"loss={name}"]).loss
    if "faithful" not in node and faithful:
        pytest.skip("a loss of our own has no original")
    if faithful:
        node.faithful = True
    loss = pesloss.build(node)
    loss.place()
    assert all(line.value for line in formulas(loss))
    if "project" in node:
        assert loss.remarks[0] == f"A loss of {node.project}."
        assert (len(loss.remarks) == 2) == bool(node.original)


@pytest.mark.parametrize("kind", ["penalty", "residual", "reduction"])
def test_two_parts_of_one_kind_say_two_things(kind):
    table = {"penalty": PENALTIES, "residual": RESIDUALS, "reduction": REDUCTIONS}[kind]
    said = {}
    for name, make in table.items():
        prop = RESIDUAL_OF.get(name, "energy") if kind == "residual" else "forces"
        said.setdefault(make().formula("x"), []).append((name, prop))
    doubled = [names for names in said.values() if len({prop for _, prop in names}) < len(names)]
    assert not doubled


def test_an_example():
    loss = TotalLoss(
        {
            "energy": {"residual": "per_atom"},
            "stress": {"penalty": Huber(0.02), "residual": "voigt", "components": {"xy": 0.5}},
        },
        weights={"energy": 3.0},
        weight=2.0,
        config_type_weights={"surface": 4.0},
    )
    energy, stress = formulas(loss)
    assert energy == (
        "energy",
        "3",
        "mean over labelled components of w·r²; r = Δenergy / N",
        "eV/atom",
        "energy",
    )
    assert "½|r|² for |r| ≤ δ, δ(|r| − ½δ) beyond, δ = 0.02" in stress.value
    assert "components weighted xx: 1, yy: 1, zz: 1, yz: 1, xz: 1, xy: 0.5" in stress.value
    assert list(remarks(loss)) == [
        "The whole loss is multiplied by 2.",
        "w is multiplied by a structure's config_type: surface 4, else 1.",
    ]


def test_weights_inside_and_no_weights_are_told():
    inside = PropertyTerm("forces", weight_inside=True).formula()
    assert inside == "mean over labelled components of r²; r = w·Δforces"
    assert (
        PropertyTerm("forces", weighted_by=[]).formula() == "mean over labelled components of r²; r = Δforces"
    )


def test_from_the_command_line():
    command = [sys.executable, "-m", "pesloss.explain", "loss=mace_universal", "loss.huber_delta=0.03"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "A loss of mace." in done.stdout
    assert "δ = 0.03" in done.stdout.replace("\n", " ") or "0.03" in done.stdout

"""A loss in words: every term says what it is, with every number that is in it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module

import pesloss
from pesloss.explain import arguments, explain
from pesloss.losses import Huber, PropertyTerm, TotalLoss, Voigt
from pesloss.losses.formulas import conversions, degree, formulas, remarks, value_unit
from pesloss.losses.penalties import PENALTIES as NAMED_PENALTIES
from tests import files
from tests.parts import LOSSES, PENALTIES, REDUCTIONS, RESIDUAL_OF, RESIDUALS
from tests.test_conf import options
from tests.trainings import trained

PAGE = (Path(__file__).parent.parent / "docs" / "balance.md").read_text(encoding="utf-8")


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


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Folder of a training whose weights are learned."""
    folder = tmp_path_factory.mktemp("explain")
    return trained(folder / "run", "loss=uncertainty", "trainer.epochs=3")[0].folder


def explained(capsys, *overrides: str) -> str:
    """What is printed, in this process."""
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        config = compose("explain", list(overrides))
    explain(config)
    return capsys.readouterr().out


def test_a_checkpoint_is_explained_with_its_loss_as_it_stands(run, capsys):
    out = explained(capsys, "~loss", f"checkpoint='{run / 'last.ckpt'}'")
    state = pesloss.checkpoint.read(run / "last.ckpt")["loss"]
    for value in state["weighting.log_variance"].tolist():
        assert f"s = {value:.4g} learned" in out
    assert "Balance of the loss on 24 structures" in out
    assert "Cosines between gradients" in out
    assert "By element" in out


def test_a_checkpoint_without_the_state_of_the_loss_says_so(run, capsys):
    out = explained(capsys, "~loss", f"checkpoint='{run}'", "batches=1", "batch_size=3")
    assert "This checkpoint has no state of the loss" in out
    assert "Balance of the loss on 3 structures" in out


def test_another_loss_and_other_data_for_a_checkpoint(run, capsys, tmp_path):
    files.write(tmp_path / "other.xyz", 5)
    data = [
        "data=extxyz",
        f"data.test={tmp_path / 'other.xyz'}",
        "data.val_fraction=0",
        "data.test_fraction=0",
    ]
    out = explained(capsys, "loss=mae", f"checkpoint='{run}'", *data)
    assert "Balance of the loss on 5 structures" in out
    assert "mean over labelled components of w·|r|" in out


def test_fresh_weights_before_a_training(capsys, tmp_path):
    files.write(tmp_path / "my.xyz", 20)
    data = ["data=extxyz", f"data.train={tmp_path / 'my.xyz'}"]
    out = explained(capsys, *data, "model=painn", "model.channels=4", "model.layers=1")
    assert "Balance of the loss on 16 structures" in out
    alone = explained(capsys, *data)
    assert "Balance" not in alone
    assert re.search(r"has its weight over N² \(about [\d.]+ for [\d.]+ atoms\)", alone)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=painn"], "give data="),
        (["checkpoint=a.ckpt", "model=painn"], "either checkpoint"),
        (["batches=0"], "batches must be a whole number of at least 1, got 0"),
    ],
)
def test_what_does_not_go_together_is_refused(capsys, overrides, said):
    with pytest.raises(ValueError, match=said):
        explained(capsys, *overrides)


def test_a_checkpoint_brings_its_loss_unless_another_is_given():
    assert arguments(["model.ckpt"]) == ["checkpoint='model.ckpt'", "~loss"]
    assert arguments(["loss=mae", "checkpoint=a.ckpt"]) == ["loss=mae", "checkpoint=a.ckpt"]
    assert arguments(["loss.weight=2"]) == ["loss.weight=2"]


@pytest.mark.parametrize("name", LOSSES)
def test_conversions_and_units_exist_for_every_loss(name):
    loss = LOSSES[name]()
    assert all(said.partition(": ")[0] in loss.by_name for said in conversions(loss, 27.0))
    assert all(isinstance(value_unit(term), str) for term in loss.by_name.values())


@pytest.mark.parametrize("name", NAMED_PENALTIES)
def test_the_degree_of_a_penalty_is_that_of_its_unit(name):
    penalty = NAMED_PENALTIES[name]()
    residual, label = torch.full((1, 3), 0.02, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    for module in penalty.modules():
        if hasattr(module, "set_delta"):
            module.set_delta(0.01)
    cost = penalty(residual, label)
    power = degree(penalty)
    for module in penalty.modules():
        if hasattr(module, "set_delta"):
            module.set_delta(10.0)  # the same error and the same delta in another unit
    torch.testing.assert_close(penalty(1000 * residual, label), 1000**power * cost)


def test_units_of_values():
    terms = {
        "energy": {"residual": "per_atom"},
        "forces": {"reduction": "root_mean"},
        "stress": {"penalty": "absolute"},
        "charges": {},
        "dipole": {"residual": "relative"},
    }
    found = [value_unit(term) for term in TotalLoss(terms).by_name.values()]
    assert found == ["(eV/atom)²", "eV/Å", "eV/Å³", "e²", ""]


def cost(penalty: str, *residual: float, delta: float = 0.01) -> float:
    """Mean cost of components."""
    part = NAMED_PENALTIES[penalty]()
    if hasattr(part, "set_delta"):
        part.set_delta(delta)
    values = torch.tensor([residual], dtype=torch.float64)
    return float(part(values, torch.zeros_like(values)).mean())


def value(residual: str, prop: str, error: torch.Tensor, **options) -> float:
    """Value of a term whose predictions are off by an error."""
    atoms = 27 if prop == "energy" else 1
    batch = {"ptr": torch.tensor([0, atoms]), prop: torch.zeros_like(error)}
    term = TotalLoss({prop: {"residual": residual, **options}})
    return float(term({prop: error}, batch))


def row(here: str) -> str:
    """Last column of the table of conversions."""
    (found,) = (line for line in PAGE.splitlines() if line.startswith(f"| {here}"))
    return found.split("|")[3].strip()


def test_total_and_per_atom_weights_in_the_docs():
    error = torch.tensor([1.0]).double()
    squared = value("difference", "energy", error) / value("per_atom", "energy", error)
    absolute = [value(one, "energy", error, penalty="absolute") for one in ("difference", "per_atom")]
    assert (
        row("squared errors of total energies") == f"{squared:.0f} : 1000, that is 1 : {1000 / squared:.2f}"
    )
    assert row("squared errors of energies per atom") == f"1 : {squared:.0f}"
    assert row("absolute errors of energies per atom") == f"1 : {absolute[0] / absolute[1]:.0f}"


def test_huber_and_squared_errors_in_the_docs():
    small, large = 1e-6, 1e6
    for name, words, far in (
        ("huber", "Huber, δ = 0.01, residuals far", "Huber, δ = 0.01, residuals far beyond"),
        ("scaled_huber", "scaled Huber, δ = 0.01, far", "scaled Huber, far beyond"),
    ):
        below = cost(name, small) / cost("squared", small)
        beyond = cost(name, large) / cost("absolute", large)
        assert row(f"{words} below") == f"{below:.3g} times the weight"
        assert row(far) == f"{beyond:.3g} times the weight"
    force = torch.tensor([0.1], dtype=torch.float64)
    pulls = [NAMED_PENALTIES["squared"]().slope(force, force)[1], Huber(0.01).slope(force, force)[1]]
    assert f"pulls {float(pulls[0] / pulls[1]):.0f} times\nless" in PAGE


def test_nine_and_six_components_in_the_docs():
    pressure = torch.eye(3, dtype=torch.float64)[None]
    shear = torch.zeros(1, 3, 3, dtype=torch.float64)
    shear[0, 0, 1] = shear[0, 1, 0] = 1
    (said,) = conversions(TotalLoss({"stress": {}}))
    for words, error, inverse in (("pressure", pressure, 3 / 2), ("one shear", shear, 3 / 4)):
        nine, six = value("difference", "stress", error), value("voigt", "stress", error)
        assert row(f"mean over 9 components of a stress, {words}") == f"{nine / six:.3f} times the weight"
        assert six / nine == pytest.approx(inverse)
    assert "3/2 as much on a pressure and 3/4 as much on a shear" in said
    assert not list(conversions(TotalLoss({"stress": {"residual": Voigt()}})))


def test_lengths_and_components_in_the_docs():
    errors = torch.randn(10**6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label = torch.zeros_like(errors)
    cases = (("squared length", "squared_norm", "squared"), ("length", "l2_norm", "absolute"))
    for words, name, other in cases:
        of_rows, of_components = (NAMED_PENALTIES[one]()(errors, label).mean() for one in (name, other))
        factor = float(of_rows / of_components)
        assert row(f"{words} of a force (`{name}`)") == f"{factor:.0f} times the weight"
        assert factor == pytest.approx(round(factor), rel=3e-3)


def test_sums_and_means_in_the_docs():
    structures, atoms = 16, 27
    batch = {
        "ptr": torch.arange(structures + 1) * atoms,
        "batch": torch.arange(structures).repeat_interleave(atoms),
        "energy": torch.zeros(structures, dtype=torch.float64),
        "forces": torch.zeros(structures * atoms, 3, dtype=torch.float64),
    }
    errors = {name: torch.ones_like(batch[name]) for name in ("energy", "forces")}
    sums = TotalLoss({name: {"reduction": "sum"} for name in errors}).evaluate(errors, batch).values
    means = TotalLoss({name: {} for name in errors}).evaluate(errors, batch).values
    energy, forces = (float(sums[name] / means[name]) for name in errors)
    expected = f"{energy:.0f} : {forces:.0f}, that is 1 : {forces / energy:.0f}"
    assert row("sums over 16 structures of 27 atoms") == expected

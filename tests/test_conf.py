"""Every option of every group composes and builds, and other repositories compose them too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf

import pesloss
from pesloss.losses import TotalLoss
from pesloss.models import PaiNN
from pesloss.training import Logger, Trainer
from pesloss.weighting import Weighting

CONF = Path(pesloss.__file__).parent.parent / "conf"
OPTIONS = sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.rglob("*.yaml"))
OPTIONS.remove("loss/base/recipe")  # what recipes have in common, of which there is none without terms
FILLED = {
    option: ["data.train=some.xyz"]
    for option in OPTIONS
    if option.startswith("data/") and option != "data/bundled"
}


def composed(*overrides: str):
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        return compose("train", list(overrides))


def options(group: str) -> list[str]:
    return [Path(option).name for option in OPTIONS if str(Path(option).parent) == group]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_builds(option):
    group, _, name = option.rpartition("/")
    overrides = [] if group == "" else [f"{group}={name}"]
    if group == "loss/term":
        overrides = [
            f"{group}@loss.terms.{name}={name}"
            if name in ("energy", "forces", "stress")
            else f"+{group}@loss.terms.{name}={name}"
        ]
    config = composed(*overrides, *FILLED.get(option, []))
    loss = pesloss.build(config.loss)
    assert isinstance(loss, TotalLoss)
    assert isinstance(pesloss.build(config.trainer), Trainer)
    assert isinstance(pesloss.build(config.model, heads=["energy"]), PaiNN)
    assert hasattr(pesloss.build(config.data), "load")
    assert all(isinstance(logger, Logger) for logger in pesloss.build(config.logger).values())
    optimizer = pesloss.build(config.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    pesloss.build(config.scheduler, optimizer)


@pytest.mark.parametrize("name", options("loss"))
def test_a_host_may_use_hydras_own_instantiate(name):
    node = composed(f"loss={name}").loss
    assert str(instantiate(node)) == str(pesloss.build(node))


@pytest.mark.parametrize("name", options("weighting"))
def test_a_weighting_is_chosen_by_its_group(name):
    loss = pesloss.build(composed("loss=normal", f"weighting={name}").loss)
    assert isinstance(loss.weighting, Weighting)
    assert type(loss.weighting).__name__.lower() == name.replace("_", "")


@pytest.mark.parametrize("name", options("loss/term"))
def test_a_term_is_named_after_its_property(name):
    term = pesloss.build(OmegaConf.load(CONF / "loss" / "term" / f"{name}.yaml"))
    compared = [*term.labels, *term.required]
    assert any(name.startswith(prop) for prop in compared) or (name, compared) == ("weights", [])


@pytest.mark.parametrize("name", options("loss"))
def test_a_loss_says_what_it_is(name):
    assert (CONF / "loss" / f"{name}.yaml").read_text().startswith("# ")


def test_the_short_handles_act():
    config = composed("loss=huber", "loss.huber_delta=0.02", "loss.weights.forces=10")
    loss = pesloss.build(config.loss)
    assert float(loss.terms["forces"].penalty.delta) == 0.02
    assert loss.weighting.prior.tolist() == [
        *loss.weighting.prior.tolist()[:1],
        10.0,
        *loss.weighting.prior.tolist()[2:],
    ]


def test_a_weight_of_zero_removes_what_the_model_would_compute():
    assert set(pesloss.build(composed("loss=energy").loss).required) == {"energy"}
    assert set(pesloss.build(composed("loss=energy_forces").loss).required) == {"energy", "forces"}


def test_a_delta_by_term_replaces_the_one_for_all():
    loss = pesloss.build(
        composed("loss=huber", "loss.huber_delta={energy: 0.01, forces: 0.1, stress: 0.001}").loss
    )
    assert [float(term.penalty.delta) for term in loss.terms.values()] == [0.01, 0.1, 0.001]


def test_another_repository_builds_on_our_groups(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "config.yaml").write_text(
        "defaults: [{loss: mine}, _self_]\nhydra: {searchpath: [pkg://pesloss.conf]}\nepochs: 3\n"
    )
    (tmp_path / "loss" / "mine.yaml").write_text(
        "defaults:\n  - huber\n  - term@terms.dipole: dipole\n  - _self_\n"
        "huber_delta: 0.3\nweights: {energy: 7.0, dipole: 2.0}\nterms: {forces: {penalty: l2_norm}}\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("config", ["loss.weights.stress=0"])
    loss = pesloss.build(config.loss)
    assert list(loss.terms) == ["energy", "forces", "dipole"]
    assert loss.weighting.prior.tolist()[::2] == [7.0, 2.0]
    assert type(loss.terms["forces"].penalty).__name__ == "L2Norm"


def test_another_repository_mounts_a_loss_where_it_likes(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "defaults:\n  - loss@training.loss: uncertainty\n  - _self_\nhydra: {searchpath: [pkg://pesloss.conf]}\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("config", ["loss@training.loss=huber", "training.loss.huber_delta=0.5"])
    assert isinstance(pesloss.build(config.training.loss), TotalLoss)

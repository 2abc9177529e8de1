"""The config of a job is composed once, and is what Hydra would compose of its whole command line."""

from __future__ import annotations

import pickle

import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from pesloss.sweeps import composing
from pesloss.sweeps.composing import Remembering, placed

WORDS = ["loss=uncertainty", "model.channels=8", "hydra.job.chdir=false"]


@pytest.fixture
def loader():
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture
def sweep(loader):
    """The config of a sweep."""
    words = ["hydra.sweep.dir=sweeps/first", "seed=0,1"]
    config = loader.load_configuration("train", words, run_mode=RunMode.MULTIRUN)
    config.hydra.job.config_name = "train"
    return config


@pytest.mark.parametrize(("folder", "job"), [("sweeps/first", "seed=0-1a2b3c4d"), ("/an, other=1", "it's")])
def test_a_placed_config_is_what_hydra_composes(loader, sweep, folder, job):
    config = loader.load_sweep_config(sweep, list(WORDS))
    words = placed(config, WORDS, folder, job)
    expected = loader.load_sweep_config(sweep, words)
    assert OmegaConf.to_yaml(config) == OmegaConf.to_yaml(expected)
    assert config.hydra.sweep.subdir == job and words[: len(WORDS)] == WORDS


def test_what_is_remembered_is_given_once(loader, sweep, monkeypatch):
    monkeypatch.setattr(composing, "KEPT", 1)
    remembering = Remembering(loader)
    first, second = (loader.load_sweep_config(sweep, [f"seed={seed}"]) for seed in (0, 1))
    remembering.remember(["seed=0"], first)
    remembering.remember(["seed=1"], second)  # one too many
    assert remembering.load_sweep_config(sweep, ["seed=0"]) is first
    for seed in (0, 1):
        found = remembering.load_sweep_config(sweep, [f"seed={seed}"])
        assert found.seed == seed and found is not first and found is not second


def test_it_is_hydras_loader_to_everybody_else(loader):
    remembering = Remembering(loader)
    assert remembering.list_groups("") == loader.list_groups("")
    assert type(pickle.loads(pickle.dumps(remembering))) is type(loader)

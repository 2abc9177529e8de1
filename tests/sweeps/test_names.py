"""Names of sweeps and jobs: the same for the same work, another for any other, legal everywhere."""

from __future__ import annotations

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from pesloss.names import quoted
from pesloss.sweeps.names import EXCLUDED, config_hash, job_name, sweep_name, swept, with_fixed_keys
from tests.test_train import app


def composed(*words: str, module: str = "pesloss.conf", config: str = "train"):
    with initialize_config_module(module, version_base="1.3"):
        return compose(config, list(words), return_hydra_config=True)


def job(*words: str, fixed: str = ""):
    """The config of a job; some keys are not swept."""
    return composed(*words, f"{EXCLUDED}=[{fixed}]")


def hash_of(*words: str) -> str:
    return config_hash(composed(*words))


def test_a_job_is_named_by_what_varies_and_a_hash():
    config = job("loss=mae", "seed=1", "loss.weights.forces=10", fixed="loss")
    name = OmegaConf.select(config, "hydra.sweep.subdir")
    assert name == job_name(config) and re.fullmatch(r"loss\.weights\.forces=10,seed=1-[0-9a-f]{8}", name)
    assert swept(config.hydra) == {"seed": 1, "loss.weights.forces": 10}


def test_the_order_of_the_words_does_not_matter():
    words = ["loss=mae", "seed=1", "loss.weights.forces=10"]
    assert job_name(job(*words, fixed="loss")) == job_name(job(*reversed(words), fixed="loss"))


@pytest.mark.parametrize(
    "word",
    [
        "logger=csv",
        "name=mine",
        "check=false",
        "resume=true",
        "sweep.retry_failed=false",
        "trainer.threads=2",
        "trainer.workers=1",
        "trainer.max_time=1:00",
        "trainer.save_minutes=1",
        "trainer.balance_every=3",
        "hydra.verbose=true",
        "hydra/launcher=basic",
    ],
)
def test_what_changes_no_number_changes_no_name(word):
    assert hash_of(word) == hash_of()
    assert sweep_name(job(word, "seed=1", fixed=word.split("=")[0])) == sweep_name(job("seed=1"))


@pytest.mark.parametrize(
    "word",
    ["seed=1", "loss=mae", "loss.weights.forces=2", "data.seed=1", "trainer.epochs=3", "+loss.terms.x=1"],
)
def test_what_changes_a_number_changes_the_hash(word):
    assert hash_of(word) != hash_of()


def test_a_changed_default_is_another_job(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "defaults: [train, _self_]\nhydra: {searchpath: [pkg://pesloss.conf]}\ntrainer: {epochs: 7}\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("mine", [], return_hydra_config=True)
    assert config_hash(config) not in {hash_of(), hash_of("trainer.epochs=8")}
    assert config_hash(config) == hash_of("trainer.epochs=7")


def test_a_sweep_is_named_by_its_keys_and_what_is_fixed():
    one = job("loss=mae", "seed=1", "loss.weights.forces=10", fixed="loss")
    name = OmegaConf.select(one, "hydra.sweep.dir")
    assert re.fullmatch(r"multirun/loss\.weights\.forces,seed,loss=mae-[0-9a-f]{8}", name)
    other = job("loss.weights.forces=100", "seed=2", "loss=mae", fixed="loss")
    assert sweep_name(one) == sweep_name(other)
    for words in (["seed=1", "loss.weights.forces=10", "loss=huber"], ["seed=1", "loss=mae"]):
        assert sweep_name(job(*words, fixed="loss")) != sweep_name(one)


def test_the_whole_command_and_each_job_name_the_sweep_alike():
    words = with_fixed_keys(["-m", "loss=mae", "seed=0,1", "data.train='my, own.xyz'", "data=extxyz"])[1:]
    parser, names = OverridesParser.create(), set()
    whole = composed("hydra.mode=MULTIRUN")
    for override in parser.parse_overrides(words):
        if not override.is_hydra_override():
            whole.hydra.overrides.task.append(override.input_line)
    OmegaConf.update(whole, EXCLUDED, ["loss", "data.train", "data"])
    for seed in (0, 1):
        jobs = ["loss=mae", f"seed={seed}", "data.train='my, own.xyz'", "data=extxyz"]
        names.add(sweep_name(job(*jobs, fixed="loss,data.train,data")))
    assert names == {sweep_name(whole)}


@pytest.mark.parametrize(
    "value",
    ["/a/b c/d.xyz", "x:y*z?", "ü\\n", "a'b", "~/..", "$HOME", "x" * 300, "[1,2]", "{a: 1}", "-", "con"],
)
def test_names_are_legal_and_need_no_quotes(value):
    names = [make(job(f"+mine={quoted(value)}", "seed=1")) for make in (job_name, sweep_name)]
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_=,.+-]*-[0-9a-f]{8}", name) and len(name) <= 90
        assert shlex.split(name) == [name]
        override = OverridesParser.create().parse_override(f"hydra.sweep.subdir={quoted(name)}")
        assert override.value() == name


def test_fixed_keys_are_those_of_words_that_are_not_swept():
    def told(*words: str) -> list[str]:
        (found,) = [w for w in with_fixed_keys(words) if w.startswith(EXCLUDED)] or [""]
        return OverridesParser.create().parse_override(found).value() if found else []

    swept_words = [
        "seed=range(3)",
        "loss.weights.forces=1,10",
        "optimizer.lr=interval(0.1,1)",
        "model=choice(a,b)",
    ]
    fixed = ["loss=mae", "data.train=[a,b]", "+x=1", "~logger", "loss/term@loss.terms.forces=force"]
    found = told(
        *swept_words, *fixed, "hydra/launcher=joblib", "hydra.verbose=true", "--config-name", "train"
    )
    assert found == ["loss", "data.train", "x", "logger", "loss/term"]
    assert told(*fixed) == [] and told("-m", "loss=mae") == ["loss"] == told(
        "loss=mae", "hydra.mode=MULTIRUN"
    )
    assert told("seed=1,2", "loss/term@a=x", "loss/term@b=x,y") == []
    given = f"{EXCLUDED}=[seed]"
    assert with_fixed_keys(["-m", "seed=1,2", "loss=mae", given]) == ["-m", "seed=1,2", "loss=mae", given]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--help"], "loss: "),
        (["--info", "defaults"], "hydra/launcher"),
        (["--cfg", "hydra", "-p", "hydra.sweep"], "${pesloss.job:}"),
        (["--cfg", "hydra", "--resolve", "-p", "hydra.sweep", "seed=1"], "dir: multirun/seed-"),
        (["--cfg", "job"], "retry_failed: true"),
    ],
)
def test_questions_are_answered(tmp_path, words, text):
    done = app(tmp_path, *words)
    assert (done.returncode, done.stderr) == (0, "") and text in done.stdout
    assert not list(tmp_path.iterdir())


def test_an_option_may_come_last():
    words = with_fixed_keys(["seed=0,1", "loss=mae", "-m"])
    assert words == ["seed=0,1", "loss=mae", f"{EXCLUDED}=['loss']", "-m"]

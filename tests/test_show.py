"""A checkpoint tells all that a paper has to, without anything of it being built."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pesloss import checkpoint
from pesloss.checkpoint import BEST, LAST, CheckpointError
from pesloss.description.typeset import FORMATS, LATEX, Section
from pesloss.losses.formulas import formulas
from pesloss.show import main, show
from tests import files
from tests import trained as toy
from tests.parts import LOSSES
from tests.test_train import app
from tests.trainings import trained

ROOT = Path(__file__).parent.parent
TINY = ["model.channels=4", "model.layers=1", "trainer.epochs=2", "logger=csv"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Folder of a tiny training from the command line."""
    folder = tmp_path_factory.mktemp("show")
    files.write(folder / "my set.xyz", 24)
    words = ["data=extxyz", f"data.train='{folder / 'my set.xyz'}'", "loss=uncertainty", "data.cache=null"]
    done = app(folder, *words, *TINY, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Folder of another, from Python."""
    folder = tmp_path_factory.mktemp("other")
    trained(folder / "run", "trainer.epochs=1", "loss.weights.stress=0", "data.references=none", num=24)
    return folder / "run"


def edited(run: Path, folder: Path, *gone: str, **changes: object) -> Path:
    content = {**checkpoint.read(run / BEST), **changes}
    torch.save({key: value for key, value in content.items() if key not in gone}, folder / "edited.ckpt")
    return folder / "edited.ckpt"


# --- what is told


def test_everything_is_told(run):
    told = show([str(run)])
    content = checkpoint.read(run / BEST)
    for words in (
        "Loss: UncertaintyLoss, weights after epoch",
        "mean over labelled components of w·r²; r = Δenergy / N",
        "learned",
        f"fingerprint {content['data']}",
        "my set.xyz",
        "PaiNN(channels=4",
        "float32",
        "Cu Au",
        "energy [eV], forces [eV/Å], stress [eV/Å³]",
        "stress in eV/Å³, positive in tension",
        f"{content['references']['Cu']:.6f}",
        "Adam(lr=",
        "CosineAnnealingLR(T_max=2",
        "all epochs are done",
        f"torch {torch.__version__}",
        "python -m pesloss.train data=extxyz",
    ):
        assert words in told, words


def test_counts_are_those_of_the_splits(run):
    splits = checkpoint.read(run / BEST)["splits"]
    assert {name: split["structures"] for name, split in splits.items()} == {"train": 20, "val": 2, "test": 2}
    assert sum(split["labels"].get("energy", 0) for split in splits.values()) == 24 - len(range(3, 24, 5))
    assert all(split["labels"]["forces"] <= split["atoms"] for split in splits.values())


def test_parameters_are_counted_once(run):
    content = checkpoint.read(run / BEST)
    assert f"parameters  {content['parameters']}\n" in show([str(run)])
    assert 0 < content["parameters"] <= sum(value.numel() for value in content["model"].values())


def test_a_folder_means_its_best_checkpoint(run):
    assert show([str(run)]) == show([str(run / BEST)])


def test_weights_are_those_of_the_moment(run):
    last, best = checkpoint.read(run / LAST), checkpoint.read(run / BEST)
    value = float(last["loss"]["weighting.log_variance"][0])
    assert f"s = {value:.4g} learned" in last["formula"]["terms"][0]["weight"]
    assert best["progress"]["epochs"] < 2 or last["formula"] == best["formula"]


def test_errors_are_those_of_the_validation_and_then_the_final_ones(run, tmp_path):
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    content = checkpoint.read(run / BEST)
    assert content["final"]["metrics"] == metrics
    for name, value in content["metrics"].items():
        assert metrics[name] == pytest.approx(value, rel=1e-4)
    assert "Errors, final" in show([str(run)]) and "test   forces mae_component" in show([str(run)])
    before = show([str(edited(run, tmp_path, "final"))])  # as after a crash in the last epoch
    assert (
        re.search(r"Errors, validation after epoch \d", before) and "  test  " not in before.split("Data")[0]
    )


def test_a_run_from_python_has_no_command_line(other):
    assert "none: it was trained from Python" in show([str(other)])
    with pytest.raises(CheckpointError, match=r"was trained from Python.*--format json"):
        show([str(other)], command=True)


def test_the_command_trains_the_same_again(run, tmp_path):
    words = shlex.split(show([str(run)], command=True))
    assert (
        words[:3] == ["python", "-m", "pesloss.train"]
        and f"data.train='{run.parent / 'my set.xyz'}'" in words
    )
    done = app(tmp_path, *words[3:], "hydra.run.dir=again")
    assert done.returncode == 0, done.stderr
    first, second = (checkpoint.read(folder / BEST) for folder in (run, tmp_path / "again"))
    assert first["metrics"] == second["metrics"] and first["data"] == second["data"]
    told = show([str(run), str(tmp_path / "again")])
    assert re.search(r"Settings +the same", told) and re.search(r"Data +the same", told)


def test_a_resumed_run_keeps_the_errors_of_its_last_epoch(tmp_path):
    first, _ = trained(tmp_path / "run", "trainer.epochs=1", num=18)
    again, _ = trained(tmp_path / "run", "trainer.epochs=1", "resume=true", num=18)
    assert again.validated == first.validated and again.validated


# --- what differs


def test_only_what_differs_is_told(run, other):
    told = show([str(run), str(other)])
    settings = told.partition("Settings\n")[2].partition("\n\n")[0]
    assert re.search(r"data\.references +\"fit\" +\"none\"", settings)
    assert re.search(r"loss\.weights\.stress +\d+\.?\d* +0", settings)
    assert "model.channels" not in settings and "seed" not in settings
    assert re.search(r"Cu +-?\d+\.\d+ +0\.000000", told)
    assert re.search(r"val forces mae_component \[meV/Å\] +\S+ +\S+", told)
    assert re.search(r"test forces mae_component \[meV/Å\] +\S+ +absent", told)


def test_a_checkpoint_does_not_differ_from_itself(run):
    told = show([str(run), str(run)])
    assert told.count("the same") == 5 and "differ" not in told.replace("different", "")


# --- how


@pytest.mark.parametrize("format", FORMATS)
def test_all_formats_tell_the_same(run, format):
    told = show([str(run)], format=format)
    content = checkpoint.read(run / BEST)
    for number in (f"{content['references']['Cu']:.6f}", str(content["parameters"]), content["data"]):
        assert number in told


def test_json_is_for_programs(run, other):
    data = json.loads(show([str(run)], format="json"))
    content = checkpoint.read(run / BEST)
    assert data["config"]["loss"]["_target_"] == "pesloss.UncertaintyLoss" and data["dtype"] == "float32"
    assert data["references"] == content["references"] and "model" not in data
    assert list(json.loads(show([str(run), str(other)], format="json"))) == [str(run), str(other)]


@pytest.mark.parametrize("name", LOSSES)
def test_every_formula_can_be_set_in_latex(name):
    rows = tuple((line.name, line.weight, line.value) for line in formulas(LOSSES[name]()))
    told = FORMATS["latex"](Section(name, ("term", "weight", "value"), rows))
    assert told.isascii(), set(filter(lambda c: not c.isascii(), told))
    assert told.count("$") % 2 == 0 and told.count("{") - told.count(r"\{") == told.count("}") - told.count(
        r"\}"
    )


def test_characters_of_latex_stand_for_themselves():
    told = FORMATS["latex"](Section("50%", ("", ""), (("a_b", r"\input{x} & $1 # ^ ~"),)))
    assert r"50\%" in told and r"a\_b & \textbackslash{}input\{x\} \& \$1 \# \textasciicircum{}" in told
    assert all(LATEX[sign] != sign for sign in "\\{}$&#_%^~<>|")


def test_pipes_do_not_end_a_cell_of_markdown():
    told = FORMATS["markdown"](Section("t", ("a", "b"), (("|r| < 1", "x"),)))
    assert told.splitlines()[-1] == r"| \|r\| \< 1 | x |"


# --- mistakes


def test_a_checkpoint_of_another_program_is_named(tmp_path, run):
    foreign = toy.checkpoint(tmp_path, steps=1)
    with pytest.raises(
        CheckpointError, match=r"best\.ckpt does not describe itself: it lacks formula, parameters"
    ):
        show([str(foreign)])
    with pytest.raises(CheckpointError, match=r"edited\.ckpt does not describe itself: it lacks splits\."):
        show([str(run), str(edited(run, tmp_path, "splits"))])


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pesloss.show", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_mistakes_end_in_a_sentence(capsys, tmp_path, run):
    for arguments, sentence in (
        ([str(tmp_path / "no.ckpt")], "There is no checkpoint"),
        ([str(ROOT / "README.md")], "cannot be read as a checkpoint"),
        ([str(run), str(run), "--command"], "--command is of one checkpoint"),
        ([str(run)] * 3, "At most two checkpoints"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        told = capsys.readouterr()
        assert ended.value.code == 1 and told.out == ""
        assert told.err.startswith("Error: ") and sentence in told.err and told.err.count("\n") == 1


def test_the_program(run):
    done = program(str(run), "--format", "markdown")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("**Loss: UncertaintyLoss")


def test_nothing_heavy_is_imported(run):
    code = (
        f"import sys; from pesloss.show import show; show([{str(run)!r}]); "
        "print(*{'matplotlib', 'ase', 'pesloss.models', 'pesloss.losses', 'wandb'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"

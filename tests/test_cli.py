from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pesloss.building import BuildError, build
from pesloss.mistakes import explain
from pesloss.names import unknown

TESTS = Path(__file__).parent
OURS = {__name__.partition(".")[0]}
PROPERTY = "pesloss.losses.properties.Property"


def raised(function, *args, **kwargs) -> Exception:
    with pytest.raises(Exception) as caught:
        function(*args, **kwargs)
    return caught.value


def composing(*overrides: str, config_name: str = "train") -> str | None:
    with initialize_config_dir(str(TESTS / "toy_app" / "conf"), version_base="1.3"):
        return explain(raised(compose, config_name, list(overrides), return_hydra_config=True))


# --- sentences about configs


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "loss.weights.force=3",
            "No 'force' in loss.weights; did you mean 'forces'? Known: energy, forces, stress. "
            "(To add a new key, write +loss.weights.force=3)",
        ),
        (
            "loss.weigths.forces=3",
            "No 'weigths' in loss; did you mean 'weights'? Known: strongest, terms, weights.",
        ),
        ("los=normal", "No 'los' in the config; did you mean 'loss'? Known: data, experiment, fail, hydra,"),
        ("experimnt=aspirin", "No 'experimnt' in the config; did you mean 'experiment'?"),
        ("lr=3", "No 'lr' in the config; did you mean 'optimizer.lr'?"),
        ("hydra.jobs.chdir=true", "No 'jobs' in hydra; did you mean 'job'?"),
        (
            "loss=uncertainy",
            "No 'uncertainy' in the group 'loss'; did you mean 'uncertainty'? Known: normal, uncertainty.",
        ),
        ("experiment=misspelt", "No 'uncertainy' in the group 'loss'; did you mean 'uncertainty'?"),
        ("loss/term@loss.terms.forces=hubr", "No 'hubr' in the group 'loss/term'; did you mean 'huber'?"),
        (
            "loss/term@loss.terms.force=huber",
            "No 'loss/term@loss.terms.force' in the defaults; did you mean 'loss/term@loss.terms.forces'? "
            "Known: loss/term@loss.terms.energy, loss/term@loss.terms.forces. "
            "(To add it, write +loss/term@loss.terms.force=huber)",
        ),
        (
            "loss/trem@loss.terms.stress=huber",
            "No 'loss/trem' in the config groups; did you mean 'loss/term'? "
            "Known: experiment, logger, loss, loss/term, model.",
        ),
        (
            "+loss/trem@loss.terms.stress=huber",
            "No 'loss/trem' in the config groups; did you mean 'loss/term'?",
        ),
        ("loss/trem=huber", "No 'loss/trem' in the config groups; did you mean 'loss/term'?"),
        (
            "logger=csv",
            "'logger' is a config group, but no default chooses from it. (To add one, write +logger=csv)",
        ),
        ("~loss.weights.force", "Nothing to delete: No 'force' in loss.weights; did you mean 'forces'?"),
        ("~loss.weigths.forces", "Nothing to delete: No 'weigths' in loss; did you mean 'weights'?"),
        ("~optimizr", "Nothing to delete: No 'optimizr' in the config; did you mean 'optimizer'?"),
        (
            "+experiment=aspirin",
            "'experiment' is chosen twice. On the command line write experiment=aspirin,",
        ),
        ("+optimizer.lr=2", "Could not append to config. An item is already at 'optimizer.lr'."),
        ("loss", "'loss' is not an override ("),
        ("loss.weights=[1", "'loss.weights=[1' is not an override ("),
        (
            "hydra.mode=RUNN",
            "Error merging override hydra.mode=RUNN: hydra.mode: Invalid value 'RUNN', expected one",
        ),
    ],
)
def test_misspelt_overrides_are_answered_with_the_nearest(override, sentence):
    answer = composing(override)
    assert answer is not None and answer.startswith(sentence)


def test_groups_of_the_search_path_are_known(tmp_path):
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler" / "uniform.yaml").write_text("seed: 1")
    answer = composing("samplr=uniform", f"hydra.searchpath=[file://{tmp_path}]")
    assert answer is not None and "did you mean 'sampler'?" in answer


def test_a_misspelt_primary_config_is_answered_with_the_nearest():
    assert (
        composing(config_name="trian")
        == "No 'trian' in the config folder; did you mean 'train'? Known: train."
    )


def test_broken_files_are_named(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "broken.yaml").write_text("a: [1\nb: 2")
    answer = composing("loss=broken", f"hydra.searchpath=[file://{tmp_path}]")
    assert answer is not None and "broken.yaml" in answer and "line 2" in answer
    assert isinstance(raised(yaml.safe_load, "a: [1\nb: 2"), yaml.YAMLError)


CONFIG = {
    "data": {
        "file": "???",
        "root": "${oc.env:PESLOSS_NO_SUCH}",
        "other": "${data.fil}",
        "call": "${nothing:1}",
    },
    "loss": {"weights": {"forces": 10}},
}


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (
            "data.file",
            "'data.file' has no value yet. Give it on the command line, data.file=..., or in a config.",
        ),
        (
            "data.root",
            "The environment variable 'PESLOSS_NO_SUCH' is not set. "
            "Set it, or give data.root=... on the command line.",
        ),
        ("data.other", "data.other refers to 'data.fil', which is not there; did you mean 'data.file'?"),
        ("data.call", "data.call: Unsupported interpolation type nothing."),
        ("loss.wieghts", "No 'wieghts' in loss; did you mean 'weights'? Known: weights."),
    ],
)
def test_values_that_cannot_be_read_are_named(key, sentence):
    config = OmegaConf.create(CONFIG)
    OmegaConf.set_struct(config, True)

    def read() -> None:
        node = config
        for part in key.split("."):
            node = node[part]

    assert explain(raised(read)) == sentence


# --- sentences about code


def complain(text: str, kind: type[Exception] = ValueError) -> None:
    raise kind(text)


@pytest.mark.parametrize("kind", [ValueError, KeyError, TypeError, RuntimeError])
def test_what_our_code_says_is_shown_as_it_was_written(kind):
    error = raised(complain, unknown("penalty", "hubr", ["huber"]), kind)
    sentence = "Unknown penalty 'hubr'; did you mean 'huber'? Known: huber."
    assert explain(error, OURS) == sentence
    assert explain(error, {"pesloss"}) is None


@pytest.mark.parametrize(
    "slip",
    [lambda: {}["forces"], lambda: int("a"), lambda: len(3), lambda: complain(""), lambda: 1 / 0],  # type: ignore
    ids=["key", "value", "type", "empty", "zero"],
)
def test_slips_of_our_code_keep_their_traceback(slip):
    assert explain(raised(slip), OURS) is None


def test_missing_files_are_named_whoever_opened_them():
    error = raised(Path("/no/such/aspirin.xyz").read_text)
    assert explain(error) == "No such file or directory: '/no/such/aspirin.xyz'."


def test_build_errors_are_shown_unless_they_hide_a_slip():
    allow = [f"{__name__}.complain", f"{__name__}.slip"]
    misspelt = raised(build, {"x": {"_target_": PROPERTY, "nam": "energy"}})
    assert isinstance(misspelt, BuildError)
    assert explain(misspelt) == str(misspelt)
    said = raised(build, {"x": {"_target_": allow[0], "text": "too soft"}}, allow=allow)
    assert explain(said, OURS) == f"x: {allow[0]}: too soft"
    slipped = raised(build, {"x": {"_target_": allow[1]}}, allow=allow)
    assert explain(slipped, OURS) is None


def slip() -> None:
    _ = {}["forces"]


def test_every_error_has_an_answer_or_a_traceback():
    for kind in (Exception, KeyboardInterrupt, OSError, KeyError, UnicodeDecodeError):
        error = kind("utf8", b"", 0, 1, "why") if kind is UnicodeDecodeError else kind()
        assert explain(error) is None
        assert traceback.format_exception(error)


# --- the program


def run(*args: str, folder: Path, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (TESTS, TESTS.parent)))
    program = ("-c", code) if code else ("-m", "toy_app.app")
    kept = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    return subprocess.run(
        (sys.executable, *program, *args),
        cwd=folder,
        env={**kept, "PYTHONPATH": path, "PYTHONWARNINGS": "error", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


SCRIPT = "from toy_app.app import main; main()"


@pytest.mark.parametrize("code", ["", SCRIPT], ids=["python -m", "console script"])
def test_a_right_command_runs(tmp_path, code):
    done = run("optimizer.lr=0.5", folder=tmp_path, code=code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "done 0.5" in done.stdout
    assert list(tmp_path.glob("outputs/*/*/.hydra/config.yaml"))


@pytest.mark.parametrize("code", ["", SCRIPT], ids=["python -m", "console script"])
@pytest.mark.parametrize(
    "args",
    [["loss.weights.force=3"], ["-m", "loss.weights.force=3,4"], ["--cfg", "job", "loss.weights.force=3"]],
)
def test_a_misspelt_key_ends_in_one_line(tmp_path, args, code):
    done = run(*args, folder=tmp_path, code=code)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: No 'force' in loss.weights; did you mean 'forces'? Known: energy, forces, stress. "
        "(To add a new key, write +loss.weights.force=3)\n"
    )


def test_a_misspelt_option_of_any_job_ends_a_sweep_before_it_begins(tmp_path):
    done = run("-m", "loss=normal,uncertainy", folder=tmp_path)
    assert done.returncode == 1 and "did you mean 'uncertainty'?" in done.stderr
    assert "full error" not in done.stdout


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        ("sentence", "Error: Unknown property 'enrgy'; did you mean 'energy'?\n"),
        ("file", "Error: No such file or directory: 'nowhere.xyz'.\n"),
        ("variable", "Error: The environment variable 'TOY_DATA' is not set."),
        (
            "interpolation",
            "Error: loss.strongest refers to 'weights.force', which is not there; did you mean",
        ),
    ],
)
def test_a_mistake_found_by_the_job_ends_in_a_sentence(tmp_path, failure, sentence):
    done = run(f"fail={failure}", "data.file=nowhere.xyz", folder=tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr and f"fail={failure}" in done.stderr
    assert "Traceback" not in done.stderr
    (log,) = tmp_path.glob("outputs/*/*/app.log")
    assert "Traceback" in log.read_text()


def test_a_slip_shows_where_it_is_without_hydra(tmp_path):
    done = run("fail=key", folder=tmp_path)
    assert done.returncode == 1
    assert "KeyError: 'spam'" in done.stderr and "toy_app/app.py" in done.stderr
    assert f"{os.sep}hydra{os.sep}" not in done.stderr and "cli.py" not in done.stderr


def test_a_sweep_shows_failures_at_once_and_goes_on(tmp_path):
    done = run(
        "-m",
        "fail=null,sentence,missing,null",
        folder=tmp_path,
        code=f"import sys; sys.stderr = sys.stdout\n{SCRIPT}",
    )
    assert done.returncode == 1
    steps = [
        "done",
        "Error in job 1 (fail=sentence): Unknown property 'enrgy'; did you mean 'energy'?",
        "Error in job 2 (fail=missing): 'data.file' has no value yet.",
        "done",
    ]
    position = 0
    for step in steps:
        position = done.stdout.index(step, position) + 1
    assert done.stdout.count("Error in job") == 2


def test_a_failed_job_leaves_nothing_to_the_next(tmp_path):
    done = run("-m", "fail=diverge,null", folder=tmp_path)
    assert "Error in job 0 (fail=diverge): Training stopped." in done.stderr
    assert done.stdout.count("models alive: 0") == 2


def test_jobs_see_the_environment_of_the_user(tmp_path):
    done = run("-m", "optimizer.lr=1,2", folder=tmp_path)
    assert done.stdout.count("full error: None") == 2


def test_the_user_may_have_the_whole_traceback(tmp_path):
    done = run("fail=sentence", folder=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and f"{os.sep}hydra{os.sep}" in done.stderr
    assert "full error: 1" in done.stdout


@pytest.mark.parametrize("args", [["fail=interrupt"], ["-m", "fail=interrupt,null"]], ids=["run", "sweep"])
def test_control_c_ends_quietly(tmp_path, args):
    # who starts the tests in the background ignores Ctrl-C, and so would what they start
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        done = run(*args, folder=tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.returncode == 130
    assert done.stderr == "\nInterrupted.\n" and "done" not in done.stdout


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--help"], "loss: normal, uncertainty"),
        (["--cfg", "job", "--package", "loss.weights"], "forces: 10.0"),
        (["--info", "searchpath"], "pkg://toy_app.conf"),
    ],
)
def test_questions_are_answered_without_torch(tmp_path, args, text):
    code = f"import sys\ntry:\n    {SCRIPT}\nfinally:\n    print('torch', 'torch' in sys.modules)"
    done = run(*args, folder=tmp_path, code=code)
    assert (done.returncode, done.stderr) == (0, "")
    assert text in done.stdout and "torch False" in done.stdout

"""Whatever a stranger wrote, it ends in a named error: nothing runs, nothing is written elsewhere."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import pesloss
from pesloss import checkpoint
from pesloss.building import BuildError
from pesloss.checkpoint import BEST, LAST, CheckpointError
from pesloss.cli import resumed_arguments
from pesloss.description import describe
from pesloss.recipes import PROJECTS, from_config
from pesloss.safety.hydra_targets import SHELL, check
from pesloss.safety.overrides import objection
from pesloss.show import show
from tests.safety.attacks import CONTENTS, HARMLESS_OVERRIDES, HIDDEN, MARK, OVERRIDES, TARGETS, Runs
from tests.safety.doors import DOORS, READERS, config_of, edited, evaluated, explain_checkpoint
from tests.safety.watch import watched

ROOT = Path(__file__).parents[2]
NAMED = (BuildError, CheckpointError, ValueError)
"""What an attack may end in; a slip of ours, such as a missing attribute, is none of them."""


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / MARK).exists()


@pytest.fixture
def seen(run, tmp_path):
    """What happened to the machine; nothing may."""
    with watched(tmp_path, Path(os.environ["PESLOSS_CACHE"])) as events:
        yield events
    assert not events


# --- names that a config or a checkpoint may not build


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_no_door_builds_what_is_not_allowed(door, hidden, run, tmp_path, seen):
    """One target for each way to hide it and each door ..."""
    with pytest.raises(NAMED) as caught:
        DOORS[door](run, tmp_path / "stranger", HIDDEN[hidden]("os.system"))
    assert "os.system" in str(caught.value) or door in ("recipe", "load, heads")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_no_way_of_hiding_helps(target, hidden, seen):
    """... and each target for each way to hide it at the one door that all others lead to."""
    with pytest.raises(BuildError):
        pesloss.build(HIDDEN[hidden](target))


@pytest.mark.parametrize("door", ["load, model", "evaluate", "resume"])
@pytest.mark.parametrize(
    "target",
    [
        "pesloss.checkpoint.Path.write_text",
        "pesloss.data.dataset.np.save",
        "pesloss.building.importlib.import_module",
        "torch.hub.load",
        "sympy.sympify",
        "torch.utils.collect_env.run",
        "subprocess.run",
        "builtins.eval",
    ],
)
def test_published_targets_at_the_doors_of_a_checkpoint(door, target, run, tmp_path, seen):
    with pytest.raises(NAMED, match=r"not allowed|has no"):
        DOORS[door](run, tmp_path / "stranger", {"_target_": target, "_args_": [f"touch {MARK}"]})


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "pesloss.NormalLoss", "terms": {"energy": {}}},
        {"_target_": "pesloss.training.CSV"},
        {"_target_": "torch.optim.Adam", "_partial_": True},
        {"_target_": "pesloss.models.Potential", "_partial_": True},
        {"no": "target"},
        "os.system",
        None,
        3,
        [],
    ],
    ids=str,
)
@pytest.mark.parametrize("door", ["load, model", "evaluate"])
def test_what_may_be_built_but_is_something_else(door, node, run, tmp_path, seen):
    with pytest.raises(NAMED):
        DOORS[door](run, tmp_path / "stranger", node)


# --- entries of a checkpoint


@pytest.mark.filterwarnings("ignore:torch.quantize")
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("reader", READERS)
def test_a_checkpoint_holds_tensors_and_plain_data_only(content, reader, tmp_path, run):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)  # of the attacker, whose pickle is nested
    try:
        torch.save({**checkpoint.read(run / BEST), "extra": CONTENTS[content]()}, tmp_path / BEST)
    finally:
        sys.setrecursionlimit(limit)
    with watched(tmp_path) as events, pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        READERS[reader](tmp_path / BEST)
    assert not events


def test_a_key_may_not_run_code_either(tmp_path, seen):
    torch.save({"config": {"a": [Runs()]}, "model": {}}, tmp_path / BEST)
    with pytest.raises(CheckpointError, match=r"holds (posix|nt)\.system, which .* could run code"):
        checkpoint.read(tmp_path / BEST)


FILES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("config: !!python/object/apply:os.system [true]"),
    "bare pickle": lambda path: path.write_bytes(__import__("pickle").dumps(Runs())),
    "old format": lambda path: torch.save({"a": 1}, path, _use_new_zipfile_serialization=False),
    "a list": lambda path: torch.save([1], path),
    "a whole model": lambda path: torch.save(torch.nn.Linear(1, 1), path),
    "a program": lambda path: torch.jit.save(torch.jit.script(torch.nn.ReLU()), str(path)),
    "no pickle": lambda path: _zip(path, {"archive/data.pkl": b"", "archive/version": b"3"}),
    "compressed": lambda path: _zip(path, {"archive/data.pkl": b"0" * 10**6}, zipfile.ZIP_DEFLATED),
    "leads out": lambda path: _zip(path, {"../../evil": b"evil", "/tmp/evil": b"evil"}),
    "a tar": lambda path: tarfile.open(path, "w").close(),
    "a folder": lambda path: path.mkdir(),
    "a queue": lambda path: os.mkfifo(path),
}


def _zip(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("file", FILES)
def test_files_that_are_no_checkpoints(file, tmp_path):
    FILES[file](tmp_path / "model.ckpt")
    with watched(tmp_path) as events, pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        checkpoint.read(tmp_path / "model.ckpt")
    assert not events


SHAPES = {
    "config": [None, [], "text", {}, {"model": "PaiNN"}, {"model": {"_target_": 3}}],
    "model": [{}, {"a": "b"}, {"network.a": torch.ones(3)}, [], {"x": torch.ones(2, dtype=torch.complex64)}],
    "heads": [None, 3, "energy", ["nothing"], [{}], [{"name": 3}]],
    "properties": [None, 3, [3], [{}], [{"name": "x", "rows": "y"}], ["nothing"]],
    "references": [None, [], {"Xx": 1.0}, {"Cu": "a"}, {"Cu": float("nan")}, {3: None}],
    "elements": [None, 3, [3], [None], {"a": 1}],
    "formula": [None, {}, {"class": 1, "terms": 3, "remarks": []}, {"class": 1, "terms": [3], "remarks": []}],
    "progress": [None, {}, {"epochs": 1}, {"epochs": {}, "seconds": "x", "best_epoch": 1, "step": 1}],
    "metrics": [None, 3, {"a": "b"}, {"val/x": []}, {3: 4}],
    "final": [None, 3, {}, {"metrics": 3}, {"metrics": {"a": "b"}, "labels": 3}],
    "splits": [None, {}, {"train": 3}, {"train": {"structures": 1, "atoms": 1, "labels": 3}}],
    "files": [None, [3], [{}], [{"file": 1, "dataset": 2, "structures": 3, "changes": 4}]],
    "versions": [None, [], {1: 2}],
    "overrides": [3, [3], [None], {}, "loss=huber"],
    "parameters": [None, "many", 10**18],
    "data": [None, {}],
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("entry", SHAPES)
def test_entries_of_any_shape_end_in_a_sentence(entry, reader, run, tmp_path):
    """Or are of no use to this reader."""
    for value in SHAPES[entry]:
        folder = edited(run, tmp_path / "stranger", **{entry: value})
        with watched(tmp_path) as events:
            try:
                READERS[reader](folder / BEST)
            except (CheckpointError, BuildError) as error:
                assert str(error)
        assert not events


# --- words of the command line


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_checkpoint_does_not_bring_back_such_words(override, run, tmp_path, seen):
    folder = edited(run, tmp_path / "stranger", overrides=["seed=1", override])
    with pytest.raises(CheckpointError, match="which no checkpoint decides"):
        resumed_arguments([f"resume={folder}"])
    line, *notes = show([str(folder)], command=True).split("\n")
    assert line == "python -m pesloss.train seed=1"
    assert len(notes) == 1 and notes[0].startswith("# ") and "is left out" in notes[0]


@pytest.mark.parametrize("override", HARMLESS_OVERRIDES)
def test_all_others_are_brought_back(override, run, tmp_path):
    assert objection(override) is None
    folder = edited(run, tmp_path / "mine", overrides=[override])
    assert resumed_arguments([f"resume={folder}"])[0] == override


def test_what_is_given_again_is_the_users_own_wish(run, tmp_path):
    folder = edited(run, tmp_path / "mine", overrides=["data.cache=/scratch", "name=${oc.env:USER}"])
    given = ["data.cache=/scratch", "name=me"]
    assert resumed_arguments([f"resume={folder}", *given])[:2] == given


def test_a_command_is_quoted_for_the_shell(run, tmp_path):
    words = ["name='a b; touch x'", "data.train=$(touch x)", "+note='`touch x`'", "data.val=a.xyz"]
    folder = edited(run, tmp_path / "stranger", overrides=words)
    line = show([str(folder)], command=True).split("\n")[0]
    script = f"set -- {line}; printf '%s\\n' \"$@\""
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    kept = [word for word in words if objection(word) is None]
    assert done.stdout.splitlines() == ["python", "-m", "pesloss.train", *kept] and len(kept) >= 3


@pytest.mark.parametrize("name", ["train.log", "metrics.json", ".hydra", ".hydra/config.yaml", "wandb_id"])
def test_a_folder_with_links_that_lead_out_is_not_resumed(name, run, tmp_path):
    folder, outside = edited(run, tmp_path / "stranger", overrides=[]), tmp_path / "outside"
    outside.mkdir()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(outside)
    with pytest.raises(CheckpointError, match="is a link that leads out"):
        resumed_arguments([f"resume={folder}"])


# --- folders and files that a checkpoint names


@pytest.mark.parametrize("cache", ["elsewhere", "../elsewhere", "~/elsewhere", "{absolute}"])
def test_a_checkpoint_does_not_say_where_packed_structures_are_kept(cache, run, tmp_path):
    cache = cache.format(absolute=tmp_path / "absolute")
    node = {**config_of(run)["data"], "cache": cache}
    folder = edited(run, tmp_path / "stranger", config=config_of(run, data=node))
    own = Path(os.environ["PESLOSS_CACHE"])
    with watched(folder, own) as events:
        evaluated(folder, folder, "splits=[test]")
        explain_checkpoint(folder)
    assert not events


def test_a_checkpoint_does_not_read_the_environment(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PESLOSS_SECRET", "hunter2")
    node = {**config_of(run)["data"], "train": "${oc.env:PESLOSS_SECRET}.xyz"}
    folder = edited(run, tmp_path / "stranger", config=config_of(run, data=node))
    with pytest.raises(FileNotFoundError, match=r"\$\{oc\.env:PESLOSS_SECRET\}"):
        evaluated(folder, folder)


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/b", "..", "x" * 300, "a\nb", "a\x1b[31m"])
def test_names_of_properties_lead_nowhere(name, run, tmp_path):
    """They are in the names of plots, and in what is printed."""
    content = checkpoint.read(run / BEST)
    prop = {"name": name, "rows": "structure", "shape": (), "extensive": False, "unit": "eV"}
    folder = edited(run, tmp_path / "stranger", properties=[*content["properties"], prop])
    with watched(folder, Path(os.environ["PESLOSS_CACHE"])) as events, pytest.raises(NAMED):
        evaluated(folder, folder)
    assert not events
    assert "\x1b" not in show([str(folder)])


# --- what is printed


@pytest.mark.parametrize("format", ["text", "markdown", "latex", "json"])
def test_a_terminal_is_not_given_orders(format, run, tmp_path):
    evil = "\x1b]0;owned\x07 \x9b31m \ud800 \u202e [bold red]x[/] \\input{/etc/passwd} <script>|x|`x`"
    changes = {
        "config": config_of(run, seed=evil, optimizer={"_target_": evil, evil: evil}),
        "formula": {
            "class": evil,
            "terms": [dict.fromkeys(("name", "weight", "value", "unit", "labels"), evil)],
            "remarks": [evil],
        },
        "elements": [evil],
        "references": {evil: 1.0},
        "versions": {evil: evil},
        "metrics": {f"val/{evil}": 1.0},
        "files": [{"file": evil, "dataset": evil, "structures": 1, "changes": {evil: evil}}],
        "reference_energies": evil,
        "data": evil,
    }
    folder = edited(run, tmp_path / "stranger", **changes)
    told = show([str(folder)], format=format)
    assert not {"\x1b", "\x07", "\x9b", "\ud800", "\u202e"} & set(told)
    if format == "latex":
        assert "\\input" not in told
    if format == "markdown":
        assert "<script>" not in told
    other = show([str(folder), str(run)], format=format)
    assert ("\x1b" not in other and "\\input{" not in other) or format in ("text", "json")


def test_a_class_that_is_not_installed_is_described_all_the_same(run, tmp_path, seen):
    node = {"_target_": "stranger.Model", "channels": 3}
    folder = edited(run, tmp_path / "stranger", config=config_of(run, model=node))
    assert "Model(channels=3)" in show([str(folder)])
    with pytest.raises(BuildError, match=r"'stranger\.Model' is not allowed"):
        pesloss.load(folder)


# --- configs of other projects


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = [
    "!!python/object/apply:os.system ['touch {MARK}']",
    "loss: !!python/name:os.system",
    "loss: !!python/object/new:os.system [x]",
    BOMB,
    "a: &a {b: *a}",
    "[" * 100_000,
    "{" * 1_500,
    "--loss=weighted --heads=__import__('os').system('x')",
    "--loss=weighted --heads=" + "(" * 5_000,
    "--config=/etc/passwd",
    "\x00",
    "--x='",
]


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_configs_of_other_projects_are_only_text(project, text, seen):
    if project in ("nequip", "sevennet") and text.startswith("--"):
        text = f"loss: '{text[:100]}'"  # a config is a mapping there
    with pytest.raises(ValueError):
        from_config(project, text)


# --- configs that Hydra itself acts on


def app(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


CONFIGS = {
    "callback": "hydra: {callbacks: {x: {_target_: pathlib.Path.write_text}}}",
    "interpolated": "evil: {x: {_target_: os.system}}\nhydra: {callbacks: '${evil}'}",
    "decoded": "hydra: {callbacks: '${oc.decode:\"{a: {_target_: os.system}}\"}'}",
    "logging": "hydra: {job_logging: {handlers: {x: {'()': subprocess.run, args: true}}}}",
    "logging class": "hydra: {job_logging: {handlers: {x: {class: subprocess.Popen}}}}",
    "environment": "hydra: {job: {env_set: {WANDB_BASE_URL: 'http://stranger'}}}",
    "another part": "hydra: {job_logging: {x: [{_target_: os.system}]}}",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_hydra_acts_on_no_strangers_config(name, tmp_path):
    """Its own list of forbidden names lets many through; ours is one of allowed names."""
    from hydra import compose, initialize_config_dir

    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "evil.yaml").write_text(f"# @package _global_\n{CONFIGS[name]}\n")
    (tmp_path / "main.yaml").write_text("defaults: [experiment: null]\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("main", ["experiment=evil"], return_hydra_config=True)
    with pytest.raises(BuildError, match=r"^hydra\."):
        check(config)


@pytest.mark.parametrize("name", SHELL)
def test_commands_for_a_queue_are_typed(name):
    """The launcher for SLURM writes them into a shell script."""
    config = OmegaConf.create({"hydra": {"launcher": {"_target_": "hydra_plugins.x", name: "curl x | sh"}}})
    with pytest.raises(BuildError, match=rf"^hydra\.launcher\.{name}: a config file does not run commands"):
        check(config)
    check(config, [f"hydra.launcher.{name}='curl x | sh'"])


def test_the_app_checks_before_hydra_acts(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "evil.yaml").write_text(f"# @package _global_\n{CONFIGS['callback']}\n")
    done = app(tmp_path, "pesloss.explain", f"loss=../../../../../../../..{tmp_path}/experiment/evil")
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith(
        "Error: hydra.callbacks.x._target_: target 'pathlib.Path.write_text' is not allowed"
    )


def test_what_hydra_needs_is_allowed(tmp_path):
    done = app(tmp_path, "pesloss.explain", "hydra.verbose=true", "loss=energy")
    assert done.returncode == 0, done.stderr


def test_resuming_a_strangers_run_ends_in_a_sentence(run, tmp_path):
    words = ["+hydra.callbacks.x._target_=os.system"]
    folder = edited(run, tmp_path / "stranger", overrides=words)
    done = app(tmp_path, "pesloss.train", f"resume={folder}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: The training in {folder} was started with")
    assert sorted(path.name for path in folder.iterdir()) == sorted([BEST, LAST])


def test_this_is_the_hydra_that_was_looked_into():
    """Whose next one builds by other rules; the check above hooks into the one that composes configs."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    assert version("hydra-core").startswith("1.3.")
    assert list(inspect.signature(ConfigLoaderImpl.load_configuration).parameters)[2] == "overrides"


def test_a_description_is_only_read(run, seen):
    assert describe(checkpoint.read(run / BEST), "run")

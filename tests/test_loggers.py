"""Numbers survive failures and resumed runs, in files, Weights & Biases and TensorBoard."""

from __future__ import annotations

import builtins
import csv
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from pesloss.training.loggers import CSV, JobName, Logger, Loggers, TensorBoard, WandB
from tests.wandb_files import runs

ROOT = Path(__file__).parent.parent


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def log_steps(logger: Logger, steps: range, **more: float) -> None:
    for step in steps:
        logger.log("steps", {"step": step, "loss": 1 / step, **more})


def written(folder: Path, steps: range, after: int = 0, **more: float) -> None:
    with Loggers([CSV()]) as loggers:
        loggers.start(folder, {}, after)
        for step in steps:
            loggers.log("steps", {"step": step, "loss": 1 / step, **more})


class TestCSV:
    def test_a_row_is_on_the_disk_as_soon_as_it_is_logged(self, tmp_path):
        logger = CSV()
        logger.start(tmp_path, {})
        log_steps(logger, range(1, 4))
        assert [row["step"] for row in rows(tmp_path / "steps.csv")] == ["1", "2", "3"]
        logger.finish(failed=True)

    def test_a_resumed_run_is_as_one_that_was_never_stopped(self, tmp_path):
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        whole.mkdir(), parts.mkdir()
        written(whole, range(1, 11))
        written(parts, range(1, 9))
        written(parts, range(6, 11), after=5)
        assert (parts / "steps.csv").read_bytes() == (whole / "steps.csv").read_bytes()

    def test_a_line_that_was_cut_off_is_forgotten(self, tmp_path):
        written(tmp_path, range(1, 4))
        with (tmp_path / "steps.csv").open("a") as file:
            file.write("3")  # of 345
        written(tmp_path, range(4, 5), after=3)
        assert [row["step"] for row in rows(tmp_path / "steps.csv")] == ["1", "2", "3", "4"]

    def test_a_new_start_forgets_the_old_rows(self, tmp_path):
        written(tmp_path, range(1, 4))
        written(tmp_path, range(1, 2))
        assert len(rows(tmp_path / "steps.csv")) == 1

    def test_new_columns_are_empty_before(self, tmp_path):
        written(tmp_path, range(1, 3))
        written(tmp_path, range(3, 4), after=2, rate=0.1)
        with Loggers([CSV()]) as loggers:
            loggers.start(tmp_path, {}, 3)
            loggers.log("steps", {"step": 4, "extra": 7.0})
        assert [row["rate"] for row in rows(tmp_path / "steps.csv")] == ["", "", "0.1", ""]
        assert [row["extra"] for row in rows(tmp_path / "steps.csv")] == ["", "", "", "7.0"]

    def test_kinds_have_tables_of_their_own(self, tmp_path):
        with Loggers([CSV()]) as loggers:
            loggers.start(tmp_path, {})
            loggers.log("steps", {"step": 1, "loss": 2.0})
            loggers.log("epochs", {"step": 1, "epoch": 1, "val/energy/mae [meV/atom]": 3.0})
        assert rows(tmp_path / "epochs.csv")[0]["val/energy/mae [meV/atom]"] == "3.0"
        assert {path.name for path in tmp_path.iterdir()} == {"steps.csv", "epochs.csv"}


class Broken(Logger):
    def log(self, kind, row):
        raise AssertionError

    def finish(self, failed):
        raise OSError("disk full")


class Watching(Logger):
    failed: bool | None = None

    def log(self, kind, row):
        pass

    def finish(self, failed):
        self.failed = failed


def test_all_loggers_finish_whatever_fails():
    first, last = Watching(), Watching()
    with pytest.raises(OSError, match="disk full"), Loggers([first, Broken(), last]):
        raise ZeroDivisionError
    assert first.failed is True and last.failed is True
    with Loggers([first]):
        pass
    assert first.failed is False


@pytest.fixture
def offline(monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_MODE", "WANDB_RUN_ID", "WANDB_RESUME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("offline")
@pytest.mark.filterwarnings("default")
def test_weights_and_biases_continues_the_run(tmp_path):
    ids = []
    for after in (0, 2):
        logger = WandB(name="copper", mode="offline")
        with Loggers([logger]) as loggers:
            loggers.start(tmp_path, {"seed": 0}, after)
            loggers.log("steps", {"step": after + 1, "epoch": 1, "loss": 1.0})
            loggers.summarize({"metrics": {"test/energy/mae [meV/atom]": 1.0}})
            ids.append(logger._run.id)
            assert logger._run.name == "copper"
        assert logger._run is None
    assert ids[0] == ids[1] == (tmp_path / "wandb_id").read_text().strip()
    assert len(list(tmp_path.glob(f"wandb/offline-run-*/run-{ids[0]}.wandb"))) == 2


@pytest.mark.usefixtures("offline")
@pytest.mark.filterwarnings("default")
def test_a_new_start_is_a_new_run_and_a_failure_finishes_it(tmp_path):
    ids = []
    for _ in range(2):
        logger = WandB(mode="offline")
        with pytest.raises(ZeroDivisionError), Loggers([logger]) as loggers:
            loggers.start(tmp_path, {})
            ids.append(logger._run.id)
            raise ZeroDivisionError
        assert logger._run is None
    assert ids[0] != ids[1]


def test_wandb_is_imported_only_where_it_is_used():
    code = "import sys, pesloss.training; sys.exit('wandb' in sys.modules or 'tensorboard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


@pytest.mark.filterwarnings("default")
def test_tensorboard_keeps_what_was_logged_and_forgets_what_was_resumed(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for after, steps in ((0, range(1, 6)), (3, range(4, 7))):
        with Loggers([TensorBoard()]) as loggers:
            loggers.start(tmp_path, {}, after)
            for step in steps:
                loggers.log("steps", {"step": step, "loss": float(step if not after else 10 * step)})
            loggers.summarize({"metrics": {"test/energy/mae [meV/atom]": 1.0}})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("steps/loss")]
    assert found == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0)]


def test_without_tensorboard_there_is_a_sentence(tmp_path, monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("torch.utils.tensorboard"):
            raise ModuleNotFoundError("No module named 'tensorboard'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'pesloss\[tensorboard\]', or choose logger=csv"):
        TensorBoard().start(tmp_path, {})


JOBS = [JobName(f"seed={seed}", "weights-1a2b3c4d") for seed in (0, 1)]


@pytest.mark.usefixtures("offline")
@pytest.mark.filterwarnings("default")
def test_jobs_of_a_sweep_may_be_open_at_once_and_each_is_finished(tmp_path):
    folders = [tmp_path / job.varied for job in JOBS]
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(KeyboardInterrupt))
        opened = [stack.enter_context(Loggers([WandB(name="copper", mode="offline")])) for _ in JOBS]
        for loggers, folder, job in zip(opened, folders, JOBS, strict=True):
            folder.mkdir()
            loggers.start(folder, {}, 0, job)
        for step in range(1, 4):
            for loggers in opened[: 2 if step < 3 else 1]:
                loggers.log("steps", {"step": step, "loss": 1.0})
        raise KeyboardInterrupt
    first, second = runs(tmp_path)
    assert (first.name, second.name) == ("copper seed=0", "copper seed=1")
    assert first.group == second.group == "weights-1a2b3c4d"
    assert (first.steps, second.steps) == ([1, 2, 3], [1, 2]) and first.id != second.id
    assert None not in (first.exit_code, second.exit_code)


@pytest.mark.usefixtures("offline")
@pytest.mark.filterwarnings("default")
def test_a_job_that_is_tried_again_is_the_same_run(tmp_path):
    for code in (1, 0):
        with suppress(ZeroDivisionError), Loggers([WandB(mode="offline")]) as loggers:
            loggers.start(tmp_path, {}, 0, JOBS[0])
            1 / (1 - code)
    first, second = runs(tmp_path)
    assert first.id == second.id and {first.exit_code, second.exit_code} == {0, 1}


@pytest.mark.usefixtures("offline")
@pytest.mark.filterwarnings("default")
def test_a_long_name_is_cut_and_a_group_of_ones_own_is_kept(tmp_path):
    with Loggers([WandB(name="copper", mode="offline", group="mine")]) as loggers:
        loggers.start(tmp_path, {}, 0, JobName("seed=1," * 50, "weights"))
    (run,) = runs(tmp_path)
    assert run.name.startswith("copper seed=1,seed=1") and len(run.name) == 128 and run.group == "mine"

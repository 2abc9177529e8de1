"""``python -m pesloss.check`` ends in a report and an exit status that a script can read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ase.io
import pytest

from pesloss.check import data_first
from pesloss.checks import CHECKS
from tests import files
from tests.checks.crystals import spoilt, with_labels
from tests.trained import checkpoint, crystal


def app(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess, dict]:
    """What the program said, and its report."""
    command = [sys.executable, "-m", "pesloss.check", *arguments, "hydra.run.dir=out"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    path = folder / "out" / "check.json"
    return done, json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@pytest.fixture
def folder(tmp_path) -> Path:
    files.write(tmp_path / "my.xyz", 24)
    return tmp_path


def levels(report: dict) -> set[str]:
    return {finding["level"] for finding in report["findings"]}


def test_good_data_have_status_0(folder):
    done, report = app(folder, "my.xyz", "loss=normal")
    assert done.returncode == 0, done.stderr
    assert "error" not in levels(report) and report["verdict"] in done.stdout
    assert report["about"]["loss"] == "energy, forces, stress"
    assert {path.name for path in (folder / "out").glob("check.*")} >= {
        "check.md",
        "check.html",
        "check.json",
    }


def test_a_term_without_labels_has_status_2(folder):
    frames = ase.io.read(folder / "my.xyz", ":")
    for frame in frames:
        frame.calc.results.pop("stress", None)
    ase.io.write(folder / "my.xyz", frames, format="extxyz")
    done, report = app(folder, "my.xyz", "loss=normal", "checks=[labels]")
    assert done.returncode == 2
    assert "The checks found 1 error" in done.stderr
    (error,) = (finding for finding in report["findings"] if finding["level"] == "error")
    assert error["check"] == "labels" and "'stress'" in error["message"]


def test_a_file_that_cannot_be_read_is_an_error_in_the_report(folder):
    (folder / "my.xyz").write_text("3\n\nCu 0 0 0\n")
    done, report = app(folder, "my.xyz")
    assert done.returncode == 2
    assert [finding["check"] for finding in report["findings"]] == ["reading"]


def test_a_mistake_in_the_command_has_status_1(folder):
    done, report = app(folder, "my.xyz", "loss=huge")
    assert done.returncode == 1 and not report
    assert "did you mean 'huber'" in done.stderr


def test_atoms_upon_each_other_do_not_stop_the_other_checks(folder):
    frames = ase.io.read(folder / "my.xyz", ":")
    frames[0].positions[-1] = frames[0].positions[0] + 0.01
    crowded = [frame for frame in frames if len(frame) > 1]
    crowded[0].positions[1] = crowded[0].positions[0] + 0.01
    ase.io.write(folder / "my.xyz", frames, format="extxyz")
    _, report = app(folder, "my.xyz")
    assert {"distances"} <= {finding["check"] for finding in report["findings"]}
    assert any(table["title"].startswith("Labels") for table in report["tables"])


def test_some_checks_and_strictness(folder):
    frames = ase.io.read(folder / "my.xyz", ":")
    ase.io.write(folder / "val.xyz", frames[:3], format="extxyz")
    done, report = app(folder, "my.xyz", "data.val=val.xyz", "checks=[duplicates]", "strict=true")
    assert done.returncode == 2
    assert {finding["check"] for finding in report["findings"]} == {"duplicates"}
    done, report = app(folder, "my.xyz", f"skip=[{','.join(CHECKS)}]", "strict=true")
    assert done.returncode == 0 and not report["findings"]


def test_a_potential_tells_more(folder):
    path = checkpoint(folder)
    crystals = spoilt([with_labels(crystal(100 + seed)) for seed in range(24)], factor=-1.0)
    ase.io.write(folder / "crystals.xyz", crystals, format="extxyz")
    _, report = app(folder, "crystals.xyz", "checks=[labels]", f"checkpoint={path}")
    told = [finding for finding in report["findings"] if finding["check"] == "stress_by_model"]
    assert any("+data.signs.stress=-1" in finding["message"] for finding in told), report["findings"]


def test_the_file_may_stand_first(tmp_path):
    assert data_first(["a.xyz", "loss=mae"]) == ["data=files", "data.train='a.xyz'", "loss=mae"]
    assert data_first(["loss=mae"]) == ["loss=mae"]
    assert data_first([]) == []

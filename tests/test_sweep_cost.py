"""The benchmark of sweeps counts what was run, all of it, and nothing twice."""

import json
import subprocess
import sys

import pytest

from benchmarks.sweep_cost.cases import COMPILED, PEER, SETTINGS, Task, all_cases, spread
from benchmarks.sweep_cost.tables import OURS, markdown, rows


@pytest.mark.parametrize("num", [1, 2, 5, len(SETTINGS)])
def test_a_sample_has_as_many_settings_as_asked_for(num):
    assert len(set(spread(num))) == num


def test_a_sample_reaches_from_the_first_to_the_last():
    assert (spread(2)[0], spread(2)[-1]) == (SETTINGS[0], SETTINGS[-1])
    assert spread(len(SETTINGS)) == SETTINGS


def test_every_way_has_a_command_for_each_setting_or_one_for_all(tmp_path):
    task = Task(tmp_path, tmp_path / "train.xyz", tmp_path / "val.xyz", epochs=2, fractions=[0.5])
    for case in all_cases("env/bin/python", sample=3):
        commands = case.commands(task, tmp_path)
        swept_at_once = "-m" in commands[0][3:]
        assert len(commands) == (1 if swept_at_once else 3), case.name
        assert case.settings == (SETTINGS if swept_at_once else spread(3)), case.name


def test_without_a_peer_there_are_only_our_own_ways():
    assert PEER not in [case.name for case in all_cases(None, sample=1)]


def test_ratios_are_those_of_medians():
    def run(case, cpu_s):
        costs = {"cpu_s": cpu_s, "wall_s": cpu_s, "memory_mib": 100.0}
        return {"case": case, "settings": 2, "best": None, **costs}

    runs = [
        run(PEER, 400.0),
        run(OURS, 90.0),
        run(OURS, 100.0),
        run(OURS, 130.0),
        run(f"{COMPILED}, batched", 50.0),
    ]
    first = [
        {"case": f"{COMPILED}, batched", "compiling_cpu_s": 70.0},
        {"case": OURS, "compiling_cpu_s": 0.0},
    ]
    peer, ours, batched = rows(runs, first, size=16)
    assert (ours.cpu_s, ours.cpu_s_each, ours.to_ours, ours.compiling_cpu_s) == (100.0, 100 / 16, 1.0, None)
    assert (batched.to_ours, batched.to_peer, batched.compiling_cpu_s) == (0.5, 0.125, 70.0)
    assert peer.to_ours == 4.0
    assert len(markdown([peer, ours, batched]).splitlines()) == 2 + 3


CLOCK = """
import json, sys
from pathlib import Path
from benchmarks.sweep_cost.clock import adopt_orphans, clocked
adopt_orphans()
print(json.dumps(clocked([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]), {})))
"""


def clock(code, log):
    """In a process of its own, since the clock waits for all children of its process."""
    return subprocess.run(
        [sys.executable, "-c", CLOCK, code, log], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
def test_a_process_that_outlives_its_parent_is_counted(tmp_path):
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    told = clock(
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {busy!r}])", tmp_path / "log"
    )
    cpu_s, _, memory_mib = json.loads(told.stdout)
    assert cpu_s >= 0.5
    assert memory_mib > 1


def test_a_command_that_fails_is_named_with_what_it_said(tmp_path):
    told = clock("raise SystemExit('no such weight')", tmp_path / "log")
    assert told.returncode == 1
    assert f"failed, see {tmp_path / 'log'}:\nno such weight" in told.stderr

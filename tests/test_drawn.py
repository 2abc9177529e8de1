"""Drawn configs, batches and files give nothing but finite numbers and named errors.

They are tried in processes of their own, where nothing checks types but pesloss, as at a user's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DRAWN = Path(__file__).parent / "drawn"


@pytest.mark.parametrize("what", ["configs", "batches", "files"])
def test_nothing_is_silent(what):
    command = [sys.executable, "-m", "pytest", "--noconftest", "-q", str(DRAWN / f"{what}.py")]
    done = subprocess.run(command, cwd=DRAWN.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout

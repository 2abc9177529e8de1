"""One tiny training for all attacks."""

from __future__ import annotations

from pathlib import Path

import matplotlib.font_manager  # makes folders of its own when it is imported
import pytest

from tests.safety.doors import trained_run


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    assert matplotlib.font_manager is not None
    return trained_run(tmp_path_factory.mktemp("victim"))

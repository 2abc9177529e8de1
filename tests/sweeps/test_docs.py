"""Commands of docs/sweeps.md are commands: their settings exist, and their sweepers take them."""

from __future__ import annotations

import re
import shlex
from itertools import islice
from pathlib import Path
from unittest.mock import Mock

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.plugins.sweeper import Sweeper

from pesloss.safety.hydra_targets import check
from pesloss.sweeps.sweepers import surviving

for plugin in ("joblib_launcher", "submitit_launcher", "optuna_sweeper"):
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}", reason=f"needs {plugin}")

PAGE = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text(encoding="utf-8")
LINES = re.findall("^python -m pesloss.train -m (.*)", PAGE, re.MULTILINE)


def one_of(override: Override) -> str:
    """The setting of one job."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return f"{override.key_or_group}={value.start}"
    if override.is_sweep_override():
        (first,) = islice(override.sweep_string_iterator(), 1)
        return f"{override.key_or_group}={first}"
    return override.input_line


@pytest.mark.parametrize("line", LINES)
def test_a_command_is_composed(line):
    found = OverridesParser.create().parse_overrides(shlex.split(line))
    assert any(override.is_sweep_override() for override in found)
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        config = compose("train", [*map(one_of, found), "hydra.mode=MULTIRUN"], return_hydra_config=True)
    check(config)
    surviving(lambda composed: Mock(spec=Sweeper), config)

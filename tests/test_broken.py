"""What is wrong with data, a config or a training is told in a sentence, wherever it comes in."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter

import pytest

import tests.broken
from tests.broken.registry import CASES, Case

for module in pkgutil.iter_modules(tests.broken.__path__, f"{tests.broken.__name__}."):
    importlib.import_module(module.name)

RANKS = (*range(1, 10), 22, 23)
"""Pains of users that a right answer at the right time would have spared them."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rank}-{case.name}")
def test_a_broken_input_gives_its_sentence(case: Case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = list(case.make(tmp_path))
    assert any(level == case.level and re.search(case.sentence, text, re.DOTALL) for level, text in said), (
        f"wanted {case.level}: {case.sentence}\n" + "\n".join(f"{level}: {text}" for level, text in said)
    )
    assert not (tmp_path / "stolen").exists()


def test_every_pain_has_its_cases():
    of_rank = Counter(case.rank for case in CASES)
    assert set(of_rank) == set(RANKS)
    assert min(of_rank.values()) >= 5
    assert len({case.name for case in CASES}) == len(CASES) >= 60


def test_every_case_is_somebodys():
    assert all(re.fullmatch(r"[\w./-]+[#!]\d+", case.thread) for case in CASES)

"""Recorded figures of the other projects' own code; ``python -m tests.parity.live`` makes new ones."""

import json

import pytest

from tests.parity.cases import HERE, PROJECTS, cases_of
from tests.parity.compare import assert_equal
from tests.parity.drawing import SHAPES

RECORDED = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (HERE / "recorded").glob("*.json")
}
FIGURES = [
    (project, name, seed)
    for project, content in sorted(RECORDED.items())
    for name, seeds in content["cases"].items()
    for seed in seeds
]


@pytest.mark.parametrize(("project", "name", "seed"), FIGURES, ids=lambda value: str(value))
def test_equal_to_the_original(project, name, seed):
    case = cases_of(project)[name]
    drawn = case.drawing.draw(int(seed.partition(" ")[0]))
    assert_equal(case, drawn, RECORDED[project]["cases"][name][seed])


@pytest.mark.parametrize("project", PROJECTS)
def test_every_case_is_recorded(project):
    recorded = RECORDED[project]["cases"]
    assert set(cases_of(project)) == set(recorded)
    on_ranks = {name for name, seeds in recorded.items() if any("ranks" in seed for seed in seeds)}
    assert on_ranks == {name for name, case in cases_of(project).items() if case.ranks}


def test_there_are_enough_of_them():
    assert sum(len(content["cases"]) for content in RECORDED.values()) >= 48


def test_both_sides_draw_the_same_shapes():
    from pesloss.losses import PROPERTIES

    assert {name: (PROPERTIES[name].rows, PROPERTIES[name].shape) for name in SHAPES} == SHAPES

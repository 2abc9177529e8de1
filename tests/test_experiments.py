"""What the experiments read out of their sweeps."""

import pytest

from experiments.huber_delta.__main__ import lines
from experiments.sweeps import insert
from experiments.weight_sweep.__main__ import plateau
from pesloss.report.sweep import Mean

DELTAS, WEIGHTS = (0.1, 1.0), (0.1, 1.0, 10.0)


def test_a_plateau_is_around_the_best_and_has_no_gap():
    errors = {0.1: 5.0, 1.0: 2.1, 10.0: 2.0, 100.0: 3.0, 1000.0: 2.0}
    assert plateau(errors, 0.1) == (1.0, 10.0)
    assert plateau(errors, 0.5) == (1.0, 1000.0)
    assert plateau(errors, 0.0) == (10.0, 10.0)


def grid(error):
    return {(delta, weight): Mean(error(delta, weight), None, 1) for delta in DELTAS for weight in WEIGHTS}


def test_plain_huber_is_a_diagonal_of_the_grid():
    scaled, plain, _ = lines(grid(lambda delta, weight: weight / delta))
    assert scaled.weights == {0.1: 1.0, 1.0: 1.0}
    assert plain.weights == {0.1: 1.0, 1.0: 10.0}
    assert plain.factor == pytest.approx(1.0), "an error of the ratio alone is the same along it"
    assert scaled.factor == pytest.approx(10.0)


def test_the_best_weight_is_that_of_each_delta():
    *_, best = lines(grid(lambda delta, weight: abs(weight - delta) + 1))
    assert best.weights == {0.1: 0.1, 1.0: 1.0}
    assert best.factor == 1.0


def test_a_table_is_replaced_between_its_markers(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n", encoding="utf-8")
    for _ in range(2):
        insert(readme, "a", "new\n")
        assert readme.read_text(encoding="utf-8") == "before\n<!-- a -->\n\nnew\n\n<!-- end of a -->\nafter\n"


def test_a_readme_without_the_markers_is_left_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- a -->\nold\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no <!-- a --> with <!-- end of a --> behind it"):
        insert(readme, "a", "new\n")
    assert readme.read_text(encoding="utf-8") == "<!-- a -->\nold\n"

"""A label beyond single precision is an error that names its structure, and disturbs no other check."""

from __future__ import annotations

import numpy as np
import pytest

from pesloss.checks import check
from pesloss.checks.overflow import overflow
from tests import files
from tests.checks.subjects import findings, subject


def test_what_is_merely_large_is_silent(tmp_path):
    structures = files.structures(6)
    structures[0].calc.results["forces"][:] = 1e38
    assert findings(overflow(subject(tmp_path, structures))) == []


@pytest.mark.parametrize(("name", "value"), [("energy", 1e300), ("forces", -1e300), ("stress", 4e38)])
def test_a_label_beyond_it_is_named(tmp_path, name, value):
    structures = files.structures(12)
    structures[4].calc.results[name] = np.full_like(structures[4].calc.results[name], value)
    one = subject(tmp_path, structures, references="none")
    (error,) = findings(overflow(one))
    assert (error.level, error.count, error.structures) == ("error", 1, one.names([4]))
    assert f"'{name}' of 1 structure" in error.message


def test_the_other_checks_wait(tmp_path):
    structures = files.structures(12)
    structures[4].calc.results["forces"][:] = 1e300
    report = check(subject(tmp_path, structures))
    assert [finding.check for finding in report.findings] == ["overflow"] and not report.tables

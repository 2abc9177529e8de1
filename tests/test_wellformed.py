"""A batch that is not what losses take it for is named."""

from __future__ import annotations

import pytest
import torch

from pesloss.losses import check_batch
from tests.batches import make

BROKEN = {
    "from 1": ({"ptr": torch.tensor([1, 3])}, ValueError, r"ptr must rise from 0 .* got \[1, 3\]"),
    "falling": ({"ptr": torch.tensor([0, 3, 2])}, ValueError, "ptr must rise from 0"),
    "beyond the atoms": (
        {"ptr": torch.tensor([0, 1, 4, 9, 11, 18, 19, 23, 26])},
        ValueError,
        r"'batch' has shape \(25,\), expected 26 atoms, as ptr says",
    ),
    "of another batch": (
        {"batch": torch.zeros(25, dtype=torch.int64)},
        ValueError,
        "'batch' gives atoms to other structures than ptr does",
    ),
    "as fractions": ({"ptr": torch.tensor([0.0, 25.0])}, TypeError, "'ptr' must hold whole numbers"),
    "an element too heavy": (
        {"numbers": torch.full((25,), 200)},
        ValueError,
        "'numbers' must be atomic numbers below 119, got 200",
    ),
    "a negative weight": (
        {"weight": torch.tensor([1.0, -1, 1, 1, 1, 1, 1, 1])},
        ValueError,
        r"'weight' must be finite and not negative, got -1\.0",
    ),
    "a weight that is NaN": (
        {"forces_weight": torch.full((25,), torch.nan)},
        ValueError,
        "'forces_weight' must be finite and not negative, got nan",
    ),
    "an infinite label": (
        {"energy": torch.full((8,), torch.inf)},
        ValueError,
        "'energy' holds an infinite label; a missing one is NaN or absent",
    ),
    "forces of fewer atoms": (
        {"forces": torch.zeros(24, 3)},
        ValueError,
        r"'forces' has shape \(24, 3\), expected 25 atoms",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_with_a_batch(what):
    changes, kind, message = BROKEN[what]
    check_batch(make())
    with pytest.raises(kind, match=message):
        check_batch({**make(), **changes})


def test_offsets_are_needed():
    with pytest.raises(KeyError, match=r"A batch needs 'ptr'.*found \['energy'\]"):
        check_batch({"energy": torch.zeros(1)})

"""Law 1: the total is the sum of its parts, and what is logged adds up to it."""

import pytest
import torch

from tests.batches import make, take
from tests.laws import EXACT, assert_same, leaves, whole_step
from tests.parts import LOSSES

DEAL = [[0, 1, 2], [3, 4, 5, 6], [], [7]]


def recomposed(output):
    return sum(output.weights[name] * value for name, value in output.values.items()) + output.regulariser


@pytest.mark.parametrize("name", LOSSES)
def test_parts_add_up_to_the_total(name):
    loss, batch = LOSSES[name](), make()
    output = loss.evaluate(leaves(batch), batch)
    torch.testing.assert_close(recomposed(output), output.total, **EXACT)
    assert set(output.values) == set(output.weights) == set(loss.by_name)


@pytest.mark.parametrize("name", LOSSES)
def test_forward_is_the_total_of_evaluate(name):
    loss, batch = LOSSES[name](), make()
    predictions = leaves(batch)
    assert torch.equal(loss(predictions, batch), loss.evaluate(predictions, batch).total)


@pytest.mark.parametrize("name", LOSSES)
def test_shares_of_accumulated_batches_add_up(name):
    loss, batch = LOSSES[name](), make()
    whole, parts = loss.evaluate(leaves(batch), batch), [take(batch, part) for part in DEAL]
    step = whole_step(loss, parts)
    shares = [loss.evaluate(leaves(part), part, step) for part in parts]
    assert_same([recomposed(share) for share in shares], [share.total for share in shares])
    for field in ("total", "regulariser"):
        torch.testing.assert_close(
            sum(getattr(share, field) for share in shares), getattr(whole, field), **EXACT
        )
    for term in loss.by_name:
        torch.testing.assert_close(sum(share.values[term] for share in shares), whole.values[term], **EXACT)
        assert {float(share.weights[term]) for share in shares} == {float(whole.weights[term])}


def test_what_is_logged_is_detached():
    loss, batch = LOSSES["weighting likelihood"](), make()
    output = loss.evaluate(leaves(batch), batch)
    logged = [*output.values.values(), *output.weights.values(), output.regulariser]
    assert output.total.requires_grad and not any(value.requires_grad for value in logged)

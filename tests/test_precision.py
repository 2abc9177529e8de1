"""Law 8: computed in the label's precision and at least float32, whatever the global default."""

import pytest
import torch

from tests.batches import make
from tests.laws import forward, leaves
from tests.parts import LOSSES

LOW = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
SINGLE = {"rtol": 2e-5, "atol": 2e-5}


def cast(values, dtype):
    """Everything with a fraction in another precision."""
    return {
        key: value.detach().to(dtype).requires_grad_(value.requires_grad)
        if value.is_floating_point()
        else value
        for key, value in values.items()
    }


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("predicted", LOW, ids=str)
@pytest.mark.parametrize("labelled", [torch.float32, torch.float64], ids=str)
def test_precision_is_the_finer_one(name, predicted, labelled):
    batch = make()
    predictions, batch = cast(leaves(batch), predicted), cast(batch, labelled)
    loss = LOSSES[name]()
    output = loss.evaluate(predictions, batch)
    expected = torch.promote_types(predicted, labelled)
    assert output.total.dtype == expected == loss(predictions, batch).dtype
    assert all(value.dtype == expected for value in [*output.values.values(), *output.weights.values()])
    output.total.backward()
    assert all(predictions[prop].grad.dtype == predicted for prop in loss.required)


@pytest.mark.parametrize("name", LOSSES)
def test_single_precision_is_double_precision_rounded(name):
    batch = make()
    double = forward(LOSSES[name](), leaves(batch), batch)
    single = forward(LOSSES[name](), cast(leaves(batch), torch.float32), cast(batch, torch.float32))
    for found, expected in zip(single, double, strict=True):
        torch.testing.assert_close(found.double(), expected, **SINGLE)


@pytest.mark.parametrize("name", LOSSES)
def test_half_predictions_are_compared_in_single(name):
    """The same numbers in float32 give the same value: nothing was computed in half."""
    batch = make()
    half, batch = cast(leaves(batch), torch.bfloat16), cast(batch, torch.float32)
    total = LOSSES[name]()(half, batch)
    assert torch.equal(total, LOSSES[name]()(cast(half, torch.float32), batch))


@pytest.fixture(params=[torch.float64, torch.float16], ids=str)
def default_dtype(request):
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", LOSSES)
def test_the_global_default_does_not_matter(name, default_dtype):
    batch = make()
    for dtype in (torch.float32, torch.float64):
        predictions, labels = cast(leaves(batch), dtype), cast(batch, dtype)
        found = forward(LOSSES[name](), predictions, labels)
        default, _ = torch.get_default_dtype(), torch.set_default_dtype(torch.float32)
        expected = forward(LOSSES[name](), predictions, labels)
        torch.set_default_dtype(default)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_without_a_label_the_prediction_decides():
    batch = {key: value for key, value in make().items() if key != "energy"}
    for dtype in LOW:
        total = LOSSES["property energy"]()(cast(leaves(make()), dtype), batch)
        assert total.dtype == torch.promote_types(dtype, torch.float32)


def test_weights_in_half_are_multiplied_in_single():
    """Three weights of a row that are exact in bfloat16, whose product is not."""
    batch = make(missing=False, weights=False)
    batch = cast(batch, torch.float32)
    weights = {"weight": torch.full((8,), 1.0078125), "forces_weight": torch.full((25,), 1.0078125)}
    half = {key: value.bfloat16() for key, value in weights.items()}
    loss, predictions = LOSSES["property forces"](), cast(leaves(make()), torch.float32)
    assert torch.equal(loss(predictions, {**batch, **half}), loss(predictions, {**batch, **weights}))

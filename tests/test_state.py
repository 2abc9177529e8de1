"""Law 10: what changes a later step is saved, moved and copied; what is configured comes from the config."""

import copy
import io
import pickle

import pytest
import torch

from pesloss.losses import Huber, TotalLoss, UncertaintyLoss
from tests.batches import make, parameters, predict, take
from tests.laws import assert_same, forward, leaves, value_and_gradients
from tests.parts import LOSSES

STEPS = [[0, 1, 2, 3], [4, 5, 6], [0, 3, 5, 7], [1, 2, 6]]


def saved(module):
    """A state after the way to disk and back."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def trained(loss, steps):
    """Parameters of a model after some steps of Adam."""
    theta, batch = parameters(), make()
    optimizer = torch.optim.Adam([{"params": [*theta.values()], "lr": 0.01}, *loss.parameter_groups()])
    for step in steps:
        optimizer.zero_grad()
        part = take(batch, step)
        loss(predict(theta, part), part).backward()
        optimizer.step()
    return theta


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_continues_where_it_was_saved(name):
    loss, fresh, batch = LOSSES[name](), LOSSES[name](), make()
    trained(loss, STEPS[:3])
    fresh.load_state_dict(saved(loss))
    assert_same(value_and_gradients(fresh, batch), value_and_gradients(loss, batch))
    assert_same(list(fresh.state_dict().values()), list(loss.state_dict().values()))


def test_learned_weights_moved_while_training():
    """Else the law above would hold because nothing is learned."""
    loss = LOSSES["weighting likelihood"]()
    before = saved(loss)
    trained(loss, STEPS)
    after = saved(loss)
    assert all(not torch.equal(before[key], after[key]) for key in before)
    assert set(before) == {f"weighting.{key}" for key in ("log_variance", "log_share", "seen")}


def test_a_step_after_loading_is_the_step_without():
    """Also of what the likelihood remembers of its first step."""
    straight, first = LOSSES["UncertaintyLoss"](), LOSSES["UncertaintyLoss"]()
    batch = make()
    straight(leaves(take(batch, STEPS[0])), take(batch, STEPS[0]))
    first(leaves(take(batch, STEPS[0])), take(batch, STEPS[0]))
    resumed = LOSSES["UncertaintyLoss"]()
    resumed.load_state_dict(saved(first))
    assert_same(value_and_gradients(resumed, batch), value_and_gradients(straight, batch))


def test_numbers_of_the_config_come_from_the_config():
    """A run that is resumed with other weights and deltas uses these."""

    def made(delta, components, **options):
        terms = {"energy": {"penalty": Huber(delta)}, "forces": {"components": components}}
        return TotalLoss(terms, **options)

    before = made(0.1, [1.0, 1.0, 1.0], weights={"forces": 5.0}, weight=2.0, dataset_weights={"a": 2})
    options = {"weights": {"forces": 7.0}, "weight": 3.0, "dataset_weights": {"b": 4}}
    after, expected = (made(0.7, [1.0, 2.0, 3.0], **options) for _ in range(2))
    after.load_state_dict(saved(before))
    assert_same(value_and_gradients(after, make()), value_and_gradients(expected, make()))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))])
def test_a_copy_is_the_same_and_its_own(name, copied):
    loss, batch = LOSSES[name](), make()
    loss(leaves(batch), batch)
    twin = copied(loss)
    assert_same(value_and_gradients(twin, batch), value_and_gradients(loss, batch))
    shared = {t.data_ptr() for t in [*twin.parameters(), *twin.buffers()]} & {
        t.data_ptr() for t in [*loss.parameters(), *loss.buffers()]
    }
    assert not shared


@pytest.mark.parametrize("name", LOSSES)
def test_all_numbers_move_together(name):
    loss, batch = LOSSES[name](), make()
    loss.to(torch.float32)
    numbers = [*loss.parameters(), *loss.buffers()]
    assert {number.dtype for number in numbers if number.is_floating_point()} <= {torch.float32}
    found, expected = forward(loss, leaves(batch), batch), forward(LOSSES[name](), leaves(batch), batch)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_no_tensor_is_left_behind(name):
    """On the meta device, which refuses to compute with any other."""
    loss, batch = LOSSES[name]().to("meta"), {key: value.to("meta") for key, value in make().items()}
    predictions = {key: value.detach().to("meta").requires_grad_() for key, value in leaves(make()).items()}
    total = loss(predictions, batch)
    total.backward()
    assert total.device.type == "meta"


@pytest.mark.parametrize("name", LOSSES)
def test_evaluating_changes_nothing(name):
    loss, batch = LOSSES[name]().eval(), make()
    before = saved(loss)
    loss(leaves(batch), batch)
    assert_same(list(loss.state_dict().values()), list(before.values()))


def test_a_checkpoint_of_other_terms_is_refused():
    two, one = UncertaintyLoss({"energy": {}, "forces": {}}), UncertaintyLoss({"energy": {}})
    with pytest.raises(RuntimeError, match="size mismatch"):
        one.load_state_dict(saved(two))

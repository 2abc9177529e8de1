"""Law 9: no surprises for the machine: no waiting, one graph, and many losses at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.func import functional_call, grad, vmap

from pesloss.losses import Huber, Mean, PropertyTerm
from pesloss.weighting import Uncertainty
from tests.batches import make
from tests.compiled import TRACED
from tests.laws import HostSynchronisations, gradients, leaves, whole_step
from tests.parts import LOSSES, three_terms

PLANTED = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "if": lambda x: bool((x > 0).any()),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "masked select": lambda x: x.masked_select(x > 0),
    "mask put": lambda x: x.clone().index_put_((x > 0,), torch.tensor(1.0)),
    "mask assignment": lambda x: x.clone().__setitem__(x > 0, torch.zeros(int((x > 0).sum()))),
    "repeat": lambda x: torch.repeat_interleave(x, torch.arange(len(x))),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: torch.bincount(x.long().abs()),
    "equal": lambda x: torch.equal(x, x),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_waits_is_found(name):
    with HostSynchronisations() as waiting:
        PLANTED[name](torch.tensor([1.0, -2.0, 3.0]))
    assert waiting.found


def test_what_does_not_wait_is_not_accused():
    values, index = torch.arange(3.0), torch.tensor([0, 2, 2])
    with HostSynchronisations() as waiting:
        values[index]
        torch.where(values > 1, values, 0).index_add(0, index, values).sum()
        torch.repeat_interleave(values, index, output_size=4)
    assert not waiting.found


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("stepped", [False, True], ids=["one batch", "step"])
@pytest.mark.parametrize("bare", [False, True], ids=["", "offsets only"])
def test_nothing_waits_for_the_device(name, stepped, bare):
    loss, batch = LOSSES[name]().train(), make()
    if bare:
        del batch["batch"]
    predictions = leaves(batch)
    with HostSynchronisations() as waiting:
        step = whole_step(loss, [batch]) if stepped else None
        total = loss.evaluate(predictions, batch, step).total
        gradients(total, loss, predictions)
    assert not waiting.found


def test_every_loss_compiles_as_one_graph_of_any_size(tmp_path):
    """In a process without type checks, which no compiler could trace."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.compiled"],
        env=environment,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    assert [line.split(maxsplit=1)[1] for line in done.stdout.splitlines()] == TRACED


def huber_loss(**options):
    return three_terms(lambda: Huber(0.3), Mean, **options)


# what is stacked -> the loss, and K values of it
STACKED = {
    "weighting.prior": (huber_loss, [[1.0, 2.0, 3.0], [0.5, 0.0, 7.0], [4.0, 1.0, 1.0]]),
    "weight": (huber_loss, [1.0, 0.5, 0.0]),
    "terms.forces.penalty.delta": (huber_loss, [0.01, 0.3, 2.0]),
    "weighting.log_variance": (
        lambda: huber_loss(weighting=Uncertainty()),
        [[0.0, 1, 2], [-1, 0, 1], [3, 3, 3]],
    ),
    "groups.0.weights": (
        lambda: huber_loss(config_type_weights={"bulk": 1.0, "surface": 2.0}),
        [[1.0, 2.0], [0.0, 1.0], [5.0, 0.0]],
    ),
}


def total_of(loss, key, batch):
    """Total as a function of a number of the loss, of the predictions, and of what the loss remembers."""

    def total(value, predictions, state):
        # in training state is written, which the transforms of torch.func allow for arguments only
        return functional_call(loss, {**state, key: value}, (predictions, batch))

    return total


def state_of(loss):
    return {key: value.detach().clone() for key, value in [*loss.named_parameters(), *loss.named_buffers()]}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("key", STACKED)
def test_many_losses_at_once_are_one_after_another(key, training):
    make_loss, values = STACKED[key]
    loss, batch, values = make_loss().train(training), make(), torch.tensor(values, dtype=torch.float64)
    predictions = {name: prediction.detach() for name, prediction in leaves(batch).items()}
    loss(predictions, batch)  # the first step is remembered
    total = total_of(loss, key, batch)
    for function in (total, grad(total, argnums=1)):
        found = vmap(function, in_dims=(0, None, None))(values, predictions, state_of(loss))
        expected = [function(value, predictions, state_of(loss)) for value in values]
        assert_stacked(found, expected)


@pytest.mark.parametrize(
    "key", ["weighting.prior", "weight", "terms.forces.penalty.delta", "weighting.log_variance"]
)
def test_numbers_of_a_loss_can_be_differentiated(key):
    """Many hypergradients at once, for whoever tunes weights by gradient."""
    make_loss, values = STACKED[key]
    batch, values = make(), torch.tensor(values, dtype=torch.float64)
    predictions = {name: prediction.detach() for name, prediction in leaves(batch).items()}
    loss = make_loss().eval()
    function, state = grad(total_of(loss, key, batch)), state_of(loss)
    found = vmap(function, (0, None, None))(values, predictions, state)
    assert_stacked(found, [function(value, predictions, state) for value in values])


@pytest.mark.parametrize("name", LOSSES)
def test_an_ensemble_of_models_is_one_after_another(name):
    """Predictions stacked instead: every loss, values and gradients."""
    loss, batch = LOSSES[name]().eval(), make()
    one = {key: prediction.detach() for key, prediction in leaves(batch).items()}
    stacked = {key: torch.stack([prediction, 2 * prediction]) for key, prediction in one.items()}
    for function in (lambda p: loss(p, batch), grad(lambda p: loss(p, batch))):
        expected = [function({key: prediction[i] for key, prediction in stacked.items()}) for i in range(2)]
        assert_stacked(vmap(function)(stacked), expected)


def test_a_term_is_a_function_of_its_components():
    """Weights of components are a buffer too."""
    batch = make()
    term = PropertyTerm("forces", components=[1.0, 2.0, 3.0])
    predictions = leaves(batch)
    values = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 5.0]], dtype=torch.float64)
    found = vmap(lambda value: functional_call(term, {"components": value}, (predictions, batch)))(values)
    expected = [PropertyTerm("forces", components=value.tolist())(predictions, batch) for value in values]
    assert_stacked(found, expected)


def assert_stacked(found, expected):
    """A stack equals its parts, also of dictionaries of tensors."""
    for i, part in enumerate(expected):
        pairs = (
            [(found[i], part)] if isinstance(part, torch.Tensor) else [(found[k][i], part[k]) for k in part]
        )
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)

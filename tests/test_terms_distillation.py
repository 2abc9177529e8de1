"""What a teacher says is the label: another prediction, another model, or an entry of the batch."""

import pytest
import torch
from torch import nn

from pesloss.losses import Property, TotalLoss
from pesloss.losses.terms.distillation import Distillation
from tests.batches import MISSING, make, parameters, predict, take
from tests.laws import EXACT, HostSynchronisations, assert_same

DIRECT = Property("direct_forces", rows="atom", shape=(3,), unit="eV/Å")
DEAL = [[0, 1, 2, 3, 4], [], [5, 6, 7]]


def both(batch):
    predictions = {name: value.detach() for name, value in predict(parameters(), batch).items()}
    return {
        "direct_forces": (predictions["forces"] * 1.3 + 0.1).requires_grad_(),
        "forces": predictions["forces"].requires_grad_(),
    }


def total_and_gradients(loss, predictions, batch, step=None):
    total = loss(predictions, batch, step)
    found = torch.autograd.grad(total, list(predictions.values()), allow_unused=True)
    return [total.detach(), *found]


def loss_of(**options):
    return TotalLoss({"term": Distillation(DIRECT, **{"teacher": "forces", **options})})


def test_a_head_learns_from_another_and_not_the_other_way():
    batch, loss = make(), loss_of()
    predictions = both(batch)
    total, student, teacher = total_and_gradients(loss, predictions, batch)
    labelled = {**batch, "direct_forces": predictions["forces"].detach()}
    plain = TotalLoss({"direct": {"property": DIRECT}})
    expected = total_and_gradients(plain, {"direct_forces": predictions["direct_forces"]}, labelled)
    assert_same([total, student], expected)
    assert teacher is None and set(loss.required) == {"direct_forces", "forces"} and not loss.labels


def test_labels_of_the_batch_do_not_matter():
    batch, loss = make(), loss_of()
    unlabelled = {key: value for key, value in batch.items() if key != "forces"}
    predictions = both(batch)
    assert_same([loss(predictions, unlabelled)], [loss(predictions, batch)])


@pytest.mark.parametrize("penalty", ["absolute", "l2_norm"])
def test_it_takes_the_parts_of_a_comparison(penalty):
    batch = make(weights=False)
    predictions = both(batch)
    residual = (predictions["direct_forces"] - predictions["forces"])[~batch["fixed"]]
    expected = residual.abs().mean() if penalty == "absolute" else residual.norm(dim=1).mean()
    found = loss_of(penalty=penalty, mask="free_atoms")(predictions, batch)
    torch.testing.assert_close(found, expected, **EXACT)


def test_accumulated_batches_are_one_batch():
    batch, loss = make(), loss_of(reduction="per_structure")
    predictions = both(batch)
    together = {**batch, **{f"p::{name}": value.detach() for name, value in predictions.items()}}
    parts = [take(together, part) for part in DEAL]
    step = loss.step(parts)
    shares = [loss({name: part[f"p::{name}"] for name in predictions}, part, step) for part in parts]
    assert_same([sum(shares)], [loss(predictions, batch).detach()])


@pytest.mark.parametrize("who", ["direct_forces", "forces"])
def test_a_prediction_that_is_not_finite_is_loud(who):
    """Also the teacher's, which is no missing label."""
    batch = make(weights=False)
    predictions = {name: value.detach() for name, value in both(batch).items()}
    predictions[who][4, 1] = MISSING
    assert not loss_of()(predictions, batch).isfinite()


class Teacher(nn.Module):
    """A model that says what its two parameters say, and counts how often it was asked."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.asked = []

    def forward(self, batch, properties):
        self.asked.append((tuple(properties), self.training, torch.is_grad_enabled()))
        return {"forces": self.scale * batch["x::forces"], "energy": self.scale * batch["x::energy"]}


def test_a_model_teaches_another():
    batch, teacher = make(), Teacher()
    loss = TotalLoss({"term": Distillation("forces", teacher=teacher)})
    prepared = loss.prepare(loss.prepare(batch))
    assert teacher.asked == [(("forces",), False, False)]
    predictions = {"forces": both(batch)["forces"]}
    labelled = {**batch, "forces": 2 * batch["x::forces"]}
    expected = total_and_gradients(TotalLoss({"forces": {}}), predictions, labelled)
    assert_same(total_and_gradients(loss, predictions, prepared), expected)
    assert not list(loss.parameters()) and not loss.state_dict() and not loss.labels
    assert set(loss.required) == {"forces"}


def test_what_was_taught_before_is_an_entry_of_the_batch():
    batch = make()
    batch["teacher::energy"] = batch["energy"] + 1
    loss = TotalLoss({"term": Distillation("energy", residual="per_atom")})
    plain = TotalLoss({"term": {"property": "energy", "residual": "per_atom"}})
    predictions = {"energy": batch["x::energy"].clone().requires_grad_()}
    expected = total_and_gradients(plain, predictions, {**batch, "energy": batch["energy"] + 1})
    assert_same(total_and_gradients(loss, predictions, batch), expected)
    assert set(loss.labels) == {"teacher::energy"} and loss.step([batch]).labels == plain.step([batch]).labels


def test_an_empty_batch_is_a_connected_zero():
    batch = take(make(), [])
    total, student, _ = total_and_gradients(loss_of(), both(batch), batch)
    assert total == 0 and student.shape == (0, 3)


def test_nothing_waits_for_the_device():
    batch, loss = make(), loss_of()
    predictions = both(batch)
    with HostSynchronisations() as waiting:
        loss.step([batch])
        total_and_gradients(loss, predictions, batch)
    assert not waiting.found


def test_it_says_who_teaches():
    assert "against forces, which is held fixed" in Distillation(DIRECT, teacher="forces").formula()
    assert "teacher::energy" in Distillation("energy").formula()


def test_a_teacher_that_says_nothing_is_named():
    batch = make()
    with pytest.raises(KeyError, match="No 'forces' in predictions"):
        loss_of()({"direct_forces": batch["forces"]}, batch)

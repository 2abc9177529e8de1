"""The balance of a loss: the gradients are those of the loss, and the training does not notice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

from pesloss import checkpoint
from pesloss.checks.balance import Balance, GroupBalance, balance
from pesloss.checks.balance.result import largest
from pesloss.checks.findings import Table
from pesloss.losses import TermGradients, TotalLoss, UncertaintyLoss
from tests import batches, ranks
from tests.parts import LOSSES
from tests.trainings import prepared, rows, said, same, trained

GROUPS = {"dataset": ["a", "b"], "config_type": ["bulk", "surface", "cluster"]}
DEAL = [[0, 1, 2], [], [3, 4, 5, 6, 7]]


class Model(nn.Module):
    """The smallest model there is, with dropout and statistics of its own that no balance may touch."""

    def __init__(self) -> None:
        super().__init__()
        self.names = list(batches.parameters())
        self.theta = nn.ParameterList(batches.parameters().values())
        self.norm = nn.BatchNorm1d(1, dtype=torch.float64)
        self.dropout = nn.Dropout()

    def forward(self, batch: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        self.norm(self.dropout(torch.ones(4, 1, dtype=torch.float64)))
        found = batches.predict(dict(zip(self.names, self.theta, strict=True)), batch)
        return {name: found[name] for name in names}


def three(**options) -> TotalLoss:
    terms = {"energy": {"residual": "per_atom"}, "forces": {"penalty": "huber"}, "stress": {}}
    return TotalLoss(terms, **{"huber_delta": 0.5, **options})


def gradient(value: Tensor, model: nn.Module) -> Tensor:
    """Of a number by the model, in a row."""
    found = torch.autograd.grad(value, list(model.parameters()), retain_graph=True, allow_unused=True)
    pairs = zip(found, model.parameters(), strict=True)
    return torch.cat([torch.zeros(p.numel()).double() if g is None else g.flatten() for g, p in pairs])


def compare(found: Balance, expected: Balance) -> None:
    """All numbers, to the last digits."""
    assert found.structures == expected.structures
    assert found.numbers() == pytest.approx(expected.numbers(), rel=1e-9, abs=1e-12, nan_ok=True)
    for one, other in zip(found.terms, expected.terms, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-9)
        assert one.labels == other.labels
        assert one.effective_weight == pytest.approx(other.effective_weight)


def test_shares_are_those_of_the_gradients():
    loss, model, batch = three(weights={"energy": 5.0, "stress": 0.1}, weight=2.0), Model(), batches.make()
    output = loss.evaluate(model(batch, list(loss.required)), batch)
    values = loss.values(model(batch, list(loss.required)), batch)
    pulls = [w * gradient(v, model) for w, v in zip(output.weights.values(), values, strict=True)]
    whole, total_loss = gradient(output.total, model), float(output.total.detach())
    found = balance(loss, model, [batch], groups=GROUPS)
    total = sum(float(pull.norm()) for pull in pulls)
    for (name, value), pull, term in zip(output.values.items(), pulls, found.terms, strict=True):
        assert (term.name, term.value) == (name, pytest.approx(float(value)))
        assert term.gradient_norm == pytest.approx(float(pull.norm()))
        assert term.gradient_share == pytest.approx(float(pull.norm()) / total)
        assert term.projection == pytest.approx(float(pull @ whole / whole.square().sum()))
        assert term.share == pytest.approx(float(output.weights[name] * value) / total_loss)
    expected = torch.nn.functional.cosine_similarity(pulls[0], pulls[1], dim=0)
    assert found.cosines[0][1] == pytest.approx(float(expected))
    assert [name for name, _, _ in found.pairs()] == ["energy", "energy", "forces"]


def test_groups_have_their_own_gradient():
    loss, model, batch = three(), Model(), batches.make()
    predictions = model(batch, list(loss.required))
    whole = gradient(loss(predictions, batch), model)
    contributions = loss.per_row(predictions, batch)
    own = batch["dataset"] == batch["dataset"][0]
    chosen = {"energy": own, "forces": own[batch["batch"]], "stress": own}
    part = torch.stack([contributions[name][rows].sum() for name, rows in chosen.items()]).sum()
    total = float(loss(predictions, batch).detach())
    found = {group.name: group for group in balance(loss, model, [batch], groups=GROUPS).groups}
    assert found["a"].projection == pytest.approx(float(gradient(part, model) @ whole / whole.square().sum()))
    assert found["a"].share == pytest.approx(float(part.detach()) / total)
    atoms = contributions["forces"].detach()
    element = atoms[batch["numbers"] == 8].sum()
    assert found["O"].share == pytest.approx(float(element / atoms.sum()))
    assert found["O"].number == int((batch["numbers"] == 8).sum())


@pytest.mark.parametrize("name", LOSSES)
def test_batches_add_up_whatever_the_loss(name):
    batch = batches.make()
    parts = [batches.take(batch, structures) for structures in DEAL]
    whole, accumulated = (balance(LOSSES[name](), Model(), one, groups=GROUPS) for one in ([batch], parts))
    compare(accumulated, whole)
    assert sum(term.projection for term in whole.terms) == pytest.approx(1)
    for kind in GROUPS:
        chosen = [group for group in whole.groups if group.kind == kind]
        assert sum(group.share for group in chosen) == pytest.approx(1)
        assert sum(group.projection or 0.0 for group in chosen) == pytest.approx(1)


def test_the_effective_weight_is_that_of_all_levels():
    batch = batches.make(weights=False)
    names = {"bulk": 3.0, "surface": 0.0}
    loss = TotalLoss(
        {"energy": {"weight": 4.0}}, weights={"energy": 5.0}, weight=2.0, config_type_weights=names
    )
    (term,) = balance(loss, Model(), [batch]).terms
    known = ~batch["energy"].isnan()
    weights = loss.weigh(batch)["weight"][known]
    assert term.configured == 5
    assert term.weight == 40
    assert term.effective_weight == pytest.approx(40 * float(weights[weights > 0].mean()))
    assert term.labels == int((weights > 0).sum())


def test_the_share_of_the_linear_zone_is_that_which_training_logs():
    batch, loss = batches.make(), three(monitor=True, weights={"energy": 1.0})
    model = Model()
    loss(model(batch, list(loss.required)), batch)
    loss.advance(step=1)
    expected = float(loss.monitored()["forces/linear_share"])
    energy, forces, _ = balance(loss, model, [batch]).terms
    assert forces.linear == pytest.approx(expected)
    assert forces.delta == 0.5
    assert energy.linear is None


def test_weights_that_follow_from_gradients_are_those_of_training():
    loss, model, batch = three(weighting="conflict_free"), Model(), batches.make()
    gradients = TermGradients(loss, model.parameters())
    gradients.add(loss.values(model(batch, list(loss.required)), batch))
    expected = gradients.combine().weights
    found = balance(loss, model, [batch], groups=GROUPS)
    assert {term.name: term.weight for term in found.terms} == pytest.approx(
        {name: float(weight) for name, weight in expected.items()}
    )
    assert sum(g.projection or 0.0 for g in found.groups if g.kind == "dataset") == pytest.approx(1)


def test_learned_weights_are_those_of_now():
    loss = UncertaintyLoss({"energy": {}, "forces": {}}, form="kendall")
    with torch.no_grad():
        loss.weighting.log_variance.copy_(torch.tensor([1.0, -1.0]))
    found = balance(loss, Model(), [batches.make()])
    assert [term.weight for term in found.terms] == pytest.approx([0.5 * 2.718281828**-1, 0.5 * 2.718281828])
    assert found.regulariser == pytest.approx(0.0)
    assert found.decided_by == "weighting"


def test_a_term_without_labels_is_told():
    batch = batches.make()
    batch["stress"] = torch.full_like(batch["stress"], torch.nan)
    found = balance(three(), Model(), [batch])
    assert found.terms[2].labels == 0
    assert found.terms[2].gradient_norm == 0
    sentences = [finding.message for finding in found.findings()]
    assert "stress has no label in these structures: nothing is said of it." in sentences


def test_nothing_is_changed():
    loss, model, batch = three(monitor=True), Model(), batches.make()
    model.dropout.eval()
    loss(model(batch, list(loss.required)), batch).backward()
    state = {"loss": loss.state_dict(), "model": model.state_dict()}
    before = {name: {k: v.clone() for k, v in one.items()} for name, one in state.items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    zone, random = loss.terms["forces"]._zone.clone(), torch.get_rng_state()
    balance(loss, model, [batch, batch], groups=GROUPS)
    assert same(before, {"loss": loss.state_dict(), "model": model.state_dict()})
    assert same(gradients, [p.grad for p in model.parameters()])
    assert torch.equal(zone, loss.terms["forces"]._zone)
    assert torch.equal(random, torch.get_rng_state())
    assert (model.training, model.dropout.training, loss.training) == (True, False, True)


def test_a_compiled_model_runs_as_it_was():
    ran = []

    def backend(graph, inputs):
        ran.append(graph)
        return graph

    loss, model, batch = three(), Model(), batches.make()
    expected = balance(loss, model, [batch])
    model.compile(backend=backend)
    compare(balance(loss, model, [batch]), expected)
    compare(balance(loss, torch.compile(model, backend=backend), [batch]), expected)
    assert not ran


def test_a_model_that_cannot_be_differentiated_again_has_no_shares_of_groups():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return values.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, *gradients):
            return gradients[0]

    class Limited(Model):
        def forward(self, batch, names):
            return {name: Once.apply(found) for name, found in super().forward(batch, names).items()}

    found = balance(three(), Limited(), [batches.make()], groups=GROUPS)
    assert {group.projection for group in found.groups} == {None}
    assert found.terms[0].gradient_share > 0
    assert not any(name.startswith("projection/dataset") for name in found.numbers())


def test_without_structures_or_parameters_it_is_refused():
    model = Model()
    with pytest.raises(ValueError, match="at least one batch"):
        balance(three(), model, [])
    with pytest.raises(ValueError, match="a parameter that requires a gradient"):
        balance(three(), model.requires_grad_(False), [batches.make()])


RANKED = {"means": three, "roots": LOSSES["weighting fixed, root mean"]}


def on_ranks(rank: int, world: int, folder: str) -> None:
    """A rank with all structures in two batches, and one without any."""
    ranks._start(rank, world, folder)
    share = ranks.share(rank, world)
    found = {name: balance(make(), Model(), share, groups=GROUPS) for name, make in RANKED.items()}
    torch.save({name: (one.structures, one.numbers()) for name, one in found.items()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_pool_their_structures(tmp_path, world):
    torch.multiprocessing.spawn(on_ranks, (world, str(tmp_path)), nprocs=world)
    for name, make in RANKED.items():
        expected = balance(make(), Model(), [ranks.whole(world)], groups=GROUPS)
        for rank in range(world):
            structures, numbers = torch.load(tmp_path / f"{rank}.pt")[name]
            assert structures == expected.structures == 8
            assert numbers == pytest.approx(expected.numbers(), rel=1e-9, abs=1e-12, nan_ok=True)


TRAININGS = {
    "huber": ["loss=huber"],
    "uncertainty": ["loss=uncertainty", "trainer.accumulate=2"],
    "adaptive": ["loss=normal", "weighting=soft_adapt", "loss.weighting.interval=step"],
    "conflict_free": ["loss=normal", "weighting=conflict_free"],
    "quantile": [
        "loss=normal",
        "loss.terms.forces.penalty={_target_: pesloss.losses.QuantileHuber, start: 0.5}",
    ],
    "curl": ["loss=normal", "+loss/term@loss.terms.forces_curl=forces_curl"],
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_does_not_notice(tmp_path, name):
    silent, _ = trained(tmp_path / "silent", *TRAININGS[name], "trainer.balance_after=[]")
    told, _ = trained(
        tmp_path / "told", *TRAININGS[name], "trainer.balance_after=[1]", "trainer.balance_every=2"
    )
    parts = ("model", "weights", "optimizer", "loss", "random", "scheduler")
    without, with_it = (checkpoint.read(fit.folder / "last.ckpt") for fit in (silent, told))
    assert same(*({part: one[part] for part in parts} for one in (without, with_it)))
    assert (silent.folder / "steps.csv").read_text() == (told.folder / "steps.csv").read_text()
    assert not (silent.folder / "balance.csv").exists()
    table = rows(told.folder / "balance.csv")
    assert [row["step"] for row in table][:3] == [1, 2, 4]
    assert all(row["gradient_share/energy"] + row["gradient_share/forces"] <= 1.0001 for row in table)
    assert "after step 1:\n" in said(told)
    assert "Balance of the loss on 24 structures" in said(told)


@pytest.mark.parametrize(
    "option", ["trainer.balance_after=[0]", "trainer.balance_every=0", "trainer.balance_batches=0"]
)
def test_steps_are_whole_numbers(tmp_path, option):
    with pytest.raises(ValueError, match=option.split("=")[0].removeprefix("trainer.")):
        prepared(tmp_path / "run", option)


def result(**changes) -> Balance:
    """A balance of two terms."""
    found = balance(three(weights={"energy": 12.0, "stress": 0.0}), Model(), [batches.make()])
    energy, forces = found.terms
    energy = replace(energy, gradient_norm=0.03, gradient_share=0.03, **changes.pop("energy", {}))
    forces = replace(forces, gradient_norm=0.97, gradient_share=0.97, **changes.pop("forces", {}))
    return replace(found, terms=(energy, forces), **changes)


def sentences(found: Balance) -> list[str]:
    return [finding.message for finding in found.findings()]


def test_a_term_that_dominates_is_told_with_weights_that_would_balance():
    told = (
        "forces supplies 97 % of the gradient, energy 3 %; shares would be equal at loss.weights.energy=390 "
    )
    assert f"{told}loss.weights.forces=1." in sentences(result(cosines=((1.0, 0.0), (0.0, 1.0))))


def test_weights_that_are_not_free_are_not_advised():
    assert "forces supplies 97 % of the gradient, energy 3 %." in sentences(result(decided_by="weighting"))
    told = "; shares would be equal with weights larger by factors of: energy 32."
    assert any(sentence.endswith(told) for sentence in sentences(result(decided_by="targets")))


def test_at_the_advised_weights_shares_are_equal():
    model, batch = Model(), batches.make()
    before = balance(three(), model, [batch])
    after = balance(three(weights=before.equal_shares()), model, [batch])
    assert [term.gradient_share for term in after.terms] == pytest.approx([1 / 3] * 3)


def test_gradients_that_pull_against_each_other_are_told():
    said = "energy and forces pull against each other: the cosine of their gradients is -0.41."
    assert said in sentences(result(cosines=((1.0, -0.41), (-0.41, 1.0))))
    assert said not in sentences(result(cosines=((1.0, -0.2), (-0.2, 1.0))))


@pytest.mark.parametrize(
    ("linear", "said"),
    [
        (0.88, "88 % of the residuals of forces lie in the linear zone: delta 0.5 acts as MAE."),
        (0.001, "0.1 % of the residuals of forces lie beyond delta 0.5: it acts as half the MSE."),
        (0.3, None),
    ],
)
def test_a_delta_that_does_nothing_is_told(linear, said):
    found = [one for one in sentences(result(forces={"linear": linear})) if "residuals" in one]
    assert found == ([] if said is None else [said])


def test_many_groups_are_the_largest_and_the_rest():
    groups = [GroupBalance("dataset", str(i), i, i / 105, i / 105) for i in range(15)]
    kept = largest(groups)
    assert len(kept) == 13
    assert kept[0].name == "14"
    assert (kept[-1].name, kept[-1].number) == ("3 others", 3)
    assert sum(group.share for group in kept) == pytest.approx(1)
    assert largest([replace(group, projection=None) for group in groups])[-1].projection is None


def test_the_report_is_tables_and_notes():
    report = balance(three(), Model(), [batches.make()], groups=GROUPS).report()
    titles = [table.title for table in report.tables]
    assert titles == [
        "Balance of the loss on 8 structures",
        "Cosines between gradients",
        "By dataset",
        "By config type",
        "By element",
    ]
    assert all(isinstance(table, Table) for table in report.tables)
    assert {finding.level for finding in report.findings} <= {"note"}

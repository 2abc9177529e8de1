"""What structures and rows add to a total: all of it, and nothing else."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from pesloss.losses import EnsembleTerm, QuantileHuber, ReactionTerm, TotalLoss
from pesloss.losses.batch import single_structures, structure_of_row
from pesloss.losses.contributions import share_of_rows
from pesloss.losses.terms.base import Term
from tests import ranks
from tests.batches import ALL, MISSING, make, parameters, predict, take
from tests.fields import Field
from tests.laws import EXACT, HostSynchronisations, assert_same, leaves, whole_step
from tests.parts import LOSSES
from tests.test_terms_ranks import loss_of, structures
from tests.test_terms_reaction import batch_of

DEAL = [[0, 1, 2], [3, 4, 5, 6], [], [7]]


def added(found):
    """Everything that contributes to a total."""
    return sum(values.sum() for values in found.terms.values()) + found.rest


def weighted(output):
    """Value of each term times its weight."""
    return {name: output.weights[name] * value for name, value in output.values.items()}


@pytest.mark.parametrize("name", LOSSES)
def test_structures_add_up_to_the_total(name):
    loss, batch = LOSSES[name](), make()
    predictions = leaves(batch)
    found, output = loss.per_structure(predictions, batch), loss.evaluate(predictions, batch)
    torch.testing.assert_close(added(found), output.total.detach(), **EXACT)
    torch.testing.assert_close(found.rest, output.regulariser, **EXACT)
    for term, value in weighted(output).items():
        torch.testing.assert_close(found.terms[term].sum(), value, **EXACT)
        assert found.terms[term].shape == (8,) and not found.terms[term].requires_grad
    assert set(found.terms) == set(loss.by_name)


@pytest.mark.parametrize("name", LOSSES)
def test_rows_have_the_gradient_of_the_total(name):
    loss, batch = LOSSES[name](), make()
    theta = parameters()
    output = loss.evaluate(predict(theta, batch), batch)
    rows = loss.per_row(predict(theta, batch), batch)
    both = [output.total, sum(values.sum() for values in rows.values())]
    by_theta = partial(torch.autograd.grad, inputs=[*theta.values()], materialize_grads=True)
    assert_same(*([*by_theta(total)] for total in both))
    num_rows = {"structure": 8, "atom": 25, "pair": int(batch["ptr"].diff().square().sum())}
    assert all(len(values) in num_rows.values() for values in rows.values())


@pytest.mark.parametrize("name", LOSSES)
def test_batches_of_a_step_add_up(name):
    batch = make()
    loss, parts = LOSSES[name](), [take(batch, part) for part in DEAL]
    step = whole_step(loss, parts)
    found = [loss.per_structure(leaves(part), part, step) for part in parts]
    whole = loss.per_structure(leaves(batch), batch)
    assert_same([sum(map(added, found))], [added(whole)])
    for term in loss.by_name:
        torch.testing.assert_close(
            torch.cat([each.terms[term] for each in found]), whole.terms[term], **EXACT
        )


@pytest.mark.parametrize("name", LOSSES)
def test_a_structure_contributes_what_is_measured_of_it_alone(name):
    """Rows are a faster way to say what a term says of each structure by itself."""
    loss, batch = LOSSES[name](), make()
    predictions = leaves(batch)
    for term in loss.by_name.values():
        counts = term.count(batch).counts.to(torch.float64)
        shares = []
        for part in (term.by_row(predictions, batch), Term.by_row(term, predictions, batch)):
            values, _ = share_of_rows(term, part, part.sums, counts)
            shares.append(torch.zeros(8, dtype=torch.float64).index_add(0, part.structure, values.detach()))
        torch.testing.assert_close(*shares, **EXACT)


@pytest.mark.parametrize("name", LOSSES)
def test_a_structure_without_weight_or_label_contributes_nothing(name):
    loss, batch = LOSSES[name](), make()
    batch["weight"][3] = 0
    for prop in ALL.values():
        batch[prop.name][structure_of_row(batch, prop.rows, len(batch[prop.name])) == 5] = MISSING
    found = loss.per_structure(leaves(batch), batch)
    assert all(values[3] == values[5] == 0 for values in found.terms.values())


@pytest.mark.parametrize("name", LOSSES)
def test_without_structures_there_is_nothing(name):
    loss, batch = LOSSES[name](), take(make(), [])
    found = loss.per_structure(leaves(batch), batch)
    assert found.rest == 0 and all(len(values) == 0 for values in found.terms.values())
    assert all(len(values) == 0 for values in loss.per_row(leaves(batch), batch).values())


@pytest.mark.parametrize("name", LOSSES)
def test_looking_changes_nothing(name):
    """Neither learned state nor what adaptive parts count of a training step."""
    loss, batch = LOSSES[name]().train(), make()
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    numbers = [buffer.clone() for buffer in loss.buffers()]
    loss.per_structure(leaves(batch), batch)
    loss.per_row(leaves(batch), batch)
    assert all(torch.equal(value, before[key]) for key, value in loss.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(loss.buffers(), numbers, strict=True) if not a.isnan().any())
    assert all(module.training for module in loss.modules())


def test_an_adaptive_penalty_does_not_count_who_looks():
    loss, batch = TotalLoss({"forces": {"penalty": QuantileHuber(0.8, 0.7)}}).train(), make()
    loss.per_structure(leaves(batch), batch)
    assert not loss.by_name["forces"]._zone.any()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("stepped", [False, True], ids=["one batch", "step"])
def test_nothing_waits_for_the_device(name, stepped):
    loss, batch = LOSSES[name]().train(), make()
    predictions = leaves(batch)
    with HostSynchronisations() as waiting:
        step = whole_step(loss, [batch]) if stepped else None
        loss.per_structure(predictions, batch, step)
    assert not waiting.found


def test_who_is_nan_is_seen():
    loss, batch = LOSSES["squared, mean"](), make()
    predictions = {name: values.detach() for name, values in leaves(batch).items()}
    rows = batch["batch"] == 4
    predictions["forces"] = torch.where(rows[:, None], torch.nan, predictions["forces"])
    found = loss.per_structure(predictions, batch).of_structures()
    assert found.isnan().tolist() == [i == 4 for i in range(8)]


def test_a_root_of_a_mean_is_shared_as_the_mean_is():
    batch = make()
    predictions = leaves(batch)
    root, mean = (TotalLoss({"forces": {"reduction": name}}) for name in ("root_mean", "mean"))
    found, expected = (loss.per_structure(predictions, batch).terms["forces"] for loss in (root, mean))
    torch.testing.assert_close(found / found.sum(), expected / expected.sum(), **EXACT)


def test_a_value_that_does_not_depend_on_its_sums_is_left():
    """A root of a negative mean is the mean, without gradient: a likelihood is no square."""
    loss, batch = TotalLoss({"term": EnsembleTerm("energy", floor=1e-9, reduction="root_mean")}), make()
    predictions = {"energy_ensemble": batch["energy"].nan_to_num()[:, None] + 1e-3 * torch.arange(3.0)}
    found = loss.per_structure(predictions, batch)
    assert found.rest < 0 and not found.terms["term"].any()
    torch.testing.assert_close(added(found), loss(predictions, batch), **EXACT)


def test_rows_tell_the_share_of_an_element():
    """The share of the gradient that some rows supply is the gradient of their contributions."""
    loss, batch = TotalLoss({"forces": {}}, weights={"forces": 3.0}), make()
    predictions = leaves(batch)
    rows = loss.per_row(predictions, batch)["forces"]
    hydrogen = batch["numbers"] == 1
    (share,) = torch.autograd.grad(rows[hydrogen].sum(), predictions["forces"], retain_graph=True)
    (whole,) = torch.autograd.grad(loss(predictions, batch), predictions["forces"])
    assert_same([share], [torch.where(hydrogen[:, None], whole, 0)])


def test_members_share_their_reaction():
    batch = batch_of()
    predictions = {"energy": batch["x::energy"]}
    loss = TotalLoss({"reactions": ReactionTerm()})
    found = loss.per_structure(predictions, batch)
    torch.testing.assert_close(added(found), loss(predictions, batch), **EXACT)
    values = found.terms["reactions"]
    for members in ([0, 3, 5], [1, 4], [6]):
        assert values[members[0]] > 0
        torch.testing.assert_close(values[members], values[members[0]].expand(len(members)), **EXACT)
    assert not values[[2, 7]].any()


def test_terms_that_look_at_the_model_belong_to_no_structure():
    field = Field(broken=True)
    loss = loss_of(field)
    batch = loss.prepare(structures())
    predictions = field(batch)
    predictions["hessian_product"] = predictions["direct_forces"]
    output, found = loss.evaluate(predictions, batch), loss.per_structure(predictions, batch)
    torch.testing.assert_close(added(found), output.total.detach(), **EXACT)
    values = weighted(output)
    torch.testing.assert_close(found.rest, values.pop("weights"), **EXACT)
    assert found.terms.keys() == values.keys()
    for name, value in values.items():
        torch.testing.assert_close(found.terms[name].sum(), value, **EXACT)
    rows = loss.per_row(predictions, batch)
    parameters = [field.mix, field.scale, field.slant]
    penalty = output.weights["weights"] * loss.by_name["weights"].cost(field)
    both = [sum(each.sum() for each in rows.values()), output.total - penalty]
    assert_same(*([*torch.autograd.grad(total, parameters, retain_graph=True)] for total in both))


def test_half_precision_predictions_are_promoted():
    loss, batch = LOSSES["squared, mean"](), make()
    labels = {name: value.float() if value.is_floating_point() else value for name, value in batch.items()}
    predictions = {name: value.detach().bfloat16() for name, value in leaves(batch).items()}
    torch.testing.assert_close(added(loss.per_structure(predictions, labels)), loss(predictions, labels))


def test_a_batch_is_cut_into_its_structures():
    batch = make([2, 1, 3], missing=False)
    batch["edge_index"] = torch.tensor([[0, 1, 3, 5], [1, 0, 4, 3]])
    batch["edge_shift"] = torch.arange(12.0).reshape(4, 3)
    batch["table"], batch["number"] = torch.arange(5), torch.tensor(1.0)
    first, second, third = single_structures(batch, batch)
    assert [one["ptr"].tolist() for one in (first, second, third)] == [[0, 2], [0, 1], [0, 3]]
    assert third["edge_index"].tolist() == [[0, 2], [1, 0]] and second["edge_index"].shape == (2, 0)
    assert torch.equal(third["edge_shift"], batch["edge_shift"][2:])
    assert torch.equal(third["hessian"], batch["hessian"][5:])
    assert third["index"].tolist() == [102] and third["batch"].tolist() == [0, 0, 0]
    assert all(one["table"] is batch["table"] and one["number"] == 1 for one in (first, second, third))
    empty = take(make(), [])
    assert single_structures(empty, empty) == []


def work(rank, world, folder):
    """What a rank's own structures add, in one batch and in two of a step."""
    ranks._start(rank, world, folder)
    parts = ranks.share(rank, world)
    once, twice = {}, {}
    for name, made in LOSSES.items():
        loss, batch = made(), ranks.join(parts)
        once[name] = added(loss.per_structure(leaves(batch), batch))
        step = whole_step(loss, parts)
        twice[name] = sum(added(loss.per_structure(leaves(part), part, step)) for part in parts)
    torch.save({"once": once, "twice": twice}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_add_up(world, tmp_path):
    """One of the ranks has no structures, another none with labels."""
    torch.multiprocessing.spawn(work, args=(world, str(tmp_path)), nprocs=world)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    batch = ranks.whole(world)
    for name, made in LOSSES.items():
        total = made()(leaves(batch), batch).detach()
        for kind in ("once", "twice"):
            assert_same([sum(each[kind][name] for each in found)], [total])

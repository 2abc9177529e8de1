"""The worst structures of a split: their shares of the loss, whatever the batches, and their flags."""

from __future__ import annotations

import csv
import io

import pytest
import torch
import torch.multiprocessing
from rich.console import Console

from pesloss.losses import (
    PROPERTIES,
    Property,
    PropertyTerm,
    TotalLoss,
    UncertaintyLoss,
    VarianceTerm,
    WeightPenalty,
)
from pesloss.report import conclude, worst
from pesloss.report.shares import Shares
from pesloss.report.signs import Signs, likeness
from pesloss.report.worst import Worst
from pesloss.training.metrics import groups_of
from tests import batches, ranks
from tests.batches import PREDICTED, make, take
from tests.laws import EXACT, leaves
from tests.parts import LOSSES

GROUPS = groups_of(batches.CONFIG_TYPES, "ab")
DEAL = [[0, 1, 2], [3, 4, 5, 6], [], [7]]
USUAL = {name: PROPERTIES[name] for name in ("energy", "forces", "stress")}


def detached(batch):
    return {name: values.detach() for name, values in leaves(batch).items()}


def clean(num=40, seed=0):
    """Structures of six atoms with all labels, and predictions that are nearly right."""
    batch = make([6] * num, seed=seed, missing=False, weights=False)
    batch["config_type"], batch["dataset"] = torch.zeros(2, num, dtype=torch.long)
    noise = torch.Generator().manual_seed(seed)
    return batch, {
        name: batch[name] + 0.1 * torch.randn(batch[name].shape, generator=noise, dtype=torch.float64)
        for name in USUAL
    }


def found_in(parts, loss=None, properties=USUAL):
    """What is found in batches and their predictions."""
    search = Worst(properties, loss, groups=GROUPS)
    for batch, predictions in parts:
        search.update(predictions, batch)
    return search.compute()


def turned(batch, predictions, name, structures, factor):
    """The predictions of some structures times a factor."""
    of_rows = batch["batch"] if PROPERTIES[name].rows == "atom" else torch.arange(len(batch["ptr"]) - 1)
    chosen = torch.isin(of_rows, torch.tensor(structures))
    shape = [-1] + [1] * (predictions[name].dim() - 1)
    return {**predictions, name: predictions[name] * torch.where(chosen, factor, 1.0).reshape(shape)}


@pytest.mark.parametrize("name", LOSSES)
def test_shares_are_those_of_the_whole_split(name):
    """Batch by batch, whatever the loss: what each term is divided by is known in the end."""
    batch, loss = make(), LOSSES[name]().eval()
    shares = Shares(LOSSES[name]().train(), PREDICTED)
    sums = torch.cat([shares.add(detached(part), part) for part in (take(batch, deal) for deal in DEAL)])
    found, expected = shares.of_structures(sums), loss.per_structure(detached(batch), batch)
    assert not shares.failed and found.keys() == expected.terms.keys() and shares.num == 8
    for term, values in found.items():
        torch.testing.assert_close(values, expected.terms[term], **EXACT)
    total = float(expected.of_structures().sum())
    assert shares.total() == pytest.approx(total, rel=1e-12) and shares.of == "the loss"


def test_the_worst_stand_first():
    batch, predictions = clean()
    predictions = turned(batch, predictions, "forces", [7], 30.0)
    loss = TotalLoss({"energy": {"residual": "per_atom"}, "forces": {}}, weights={"energy": 2.0})
    found = found_in([(batch, predictions)], loss)
    expected = loss.per_structure(predictions, batch).of_structures()
    costs, places = expected.topk(10)
    assert [row.about["source"] for row in found.rows] == [str(100 + i) for i in places.tolist()]
    assert [row.cost for row in found.rows] == pytest.approx(costs.tolist(), rel=1e-12)
    assert list(found.flags[0]) == ["outlier"] and not any(found.flags[1:])
    share = next(found.columns())["share [%]"]
    assert float(share) == pytest.approx(100 * float(expected.max() / expected.sum()), rel=1e-2)


@pytest.mark.parametrize("falling", [False, True])
def test_memory_is_bounded(monkeypatch, falling):
    """Of a long split some structures are held, and those are the worst wherever they stand."""
    monkeypatch.setattr(worst, "KEPT", 12)
    batch, predictions = clean(120)
    factors = torch.arange(120.0).flip(0) if falling else torch.arange(120.0)
    predictions["energy"] = batch["energy"] + factors
    search = Worst(USUAL, TotalLoss({"energy": {}}))
    for part in torch.arange(120).split(5):
        one = take(batch, part.tolist())
        search.update({**one, "energy": predictions["energy"][part]}, one)
        assert len(search._held) <= 24
    order = [int(row.about["source"]) - 100 for row in search.compute().rows]
    assert order == sorted(range(120), key=lambda i: -factors[i])[:10]


def test_a_loss_that_cannot_be_told_is_replaced_by_squared_errors():
    batch, predictions = clean()
    predictions = turned(batch, predictions, "stress", [3], 50.0)
    for loss in (None, TotalLoss({"weights": WeightPenalty()}), TotalLoss({"charges": {}})):
        found = found_in([(batch, predictions)], loss)
        assert found.of == "the squared errors, each property for an equal part"
        assert found.rows[0].about["source"] == "103" and found.total == pytest.approx(3)


def test_terms_that_cannot_be_told_are_left_out():
    batch, predictions = clean()
    loss = TotalLoss(
        {
            "forces": {},
            "energy": PropertyTerm("energy", weighted_by=["trust"]),
            "dipole": {},
            "weights": WeightPenalty(),
        }
    )
    found = found_in([(batch, predictions), (batch, predictions)], loss)
    assert found.of == "the loss without energy, dipole, weights"
    assert set(found.rows[0].terms) == {"forces"}


def test_learned_weights_are_those_of_the_end_and_not_touched():
    batch, predictions = clean()
    loss = UncertaintyLoss({"energy": {}, "forces": {}})
    with torch.no_grad():
        loss.weighting.log_variance.copy_(torch.tensor([3.0, -2.0]))
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    found = found_in([(batch, predictions)], loss.train())
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
    expected = loss.eval().per_structure(predictions, batch)
    assert found.rows[0].cost == pytest.approx(float(expected.of_structures().max()), rel=1e-12)


def test_a_negative_loss_has_no_shares():
    batch, predictions = clean()
    predictions["energy_variance"] = torch.full_like(batch["energy"], 1e-3)
    properties = {**USUAL, "energy_variance": Property("energy_variance")}
    predictions["energy"] = batch["energy"] + 0.01
    loss = TotalLoss({"energy": VarianceTerm("energy", beta=0)})
    found = found_in([(batch, predictions)], loss, properties)
    assert found.total < 0 and next(found.columns())["share [%]"] == ""


def test_a_nan_stands_first_and_leaves_the_others_alone():
    batch, predictions = clean()
    expected = found_in([(take(batch, [i for i in range(40) if i != 5]), without(predictions, batch, 5))])
    predictions["forces"][batch["batch"] == 5] = torch.nan
    found = found_in([(batch, predictions)])
    assert found.rows[0].about["source"] == "105" and "not finite" in found.flags[0]
    assert next(found.columns())["forces/max_vector [meV/Å]"] == "nan"
    forces = [row.terms["forces"] for row in found.rows[1:]]
    assert all(0 < value < 1 for value in forces) and found.total == pytest.approx(expected.total)


def without(predictions, batch, structure):
    atoms = batch["batch"] != structure
    others = torch.arange(len(batch["ptr"]) - 1) != structure
    return {name: values[atoms if name == "forces" else others] for name, values in predictions.items()}


def test_without_labels_there_is_nothing_to_tell():
    batch, predictions = clean(3)
    bare = {key: value for key, value in batch.items() if key not in USUAL}
    assert found_in([(bare, predictions)], TotalLoss({"forces": {}})) is None
    assert found_in([]) is None and found_in([(batch, {})], properties={}) is None


@pytest.mark.parametrize(
    ("factor", "flag"), [(-1.0, "sign flipped"), (1e-5, "zero prediction"), (0.0, "zero prediction")]
)
def test_what_looks_wrong_is_flagged(factor, flag):
    batch, predictions = clean()
    found = found_in([(batch, turned(batch, predictions, "forces", [4], factor))])
    assert found.rows[0].about["source"] == "104" and found.flags[0][0] == f"forces: {flag}"
    assert sum(map(len, found.flags)) == len(found.flags[0]) and not found.sentences
    label, prediction = found.points("forces")
    atoms = batch["batch"] == 4
    assert torch.equal(torch.from_numpy(label), 1000 * batch["forces"][atoms].flatten())
    assert len(prediction) == 18 and found.points("stress").shape == (2, 0)


def test_noise_has_no_sign():
    """Forces of a structure at rest may point anywhere, and a single number has some sign."""
    batch, predictions = clean()
    atoms = batch["batch"] == 4
    batch["forces"][atoms] *= 1e-4
    predictions["forces"][atoms] = -batch["forces"][atoms]
    predictions["energy"][4] = -batch["energy"][4]
    assert likeness(USUAL["forces"], predictions["forces"], batch).flipped[4]
    assert not any("flipped" in flag for flags in found_in([(batch, predictions)]).flags for flag in flags)


@pytest.mark.parametrize("deal", [1, 7, 40])
@pytest.mark.parametrize("name", ["forces", "stress"])
def test_many_of_the_opposite_sign_are_a_matter_of_signs(name, deal):
    batch, predictions = clean()
    predictions = turned(batch, predictions, name, list(range(9)), -1.0)
    signs = Signs(USUAL)
    for part in torch.arange(40).split(deal):
        atoms = torch.isin(batch["batch"], part)
        one = {n: values[atoms if n == "forces" else part] for n, values in predictions.items()}
        signs.add(one, take(batch, part.tolist()))
    (sentence,) = signs.sentences()
    assert sentence.startswith(f"9 of 40 structures have {name} of the opposite sign")
    assert f"data.signs.{name}=-1" in sentence


def test_many_zeros_are_told():
    batch, predictions = clean()
    found = found_in([(batch, turned(batch, predictions, "forces", list(range(6)), 0.0))])
    assert found.sentences[0].startswith(
        "6 of 40 structures have forces that are predicted to be almost zero"
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_model_that_knows_nothing_has_no_sign_error(seed):
    batch, _ = clean(200, seed)
    predictions, _ = clean(200, seed + 100)
    assert not found_in([(batch, {name: predictions[name] for name in USUAL})]).sentences


def test_a_few_are_no_system():
    batch, predictions = clean()
    assert not found_in([(batch, turned(batch, predictions, "forces", [1, 2, 3, 4], -1.0))]).sentences


def test_tables_are_written_and_told(tmp_path):
    batch, predictions = clean()
    predictions = turned(batch, predictions, "forces", list(range(9)), -1.0)
    text = io.StringIO()
    conclude(
        {"val": [(batch, predictions)], "test": []},
        USUAL,
        folder=tmp_path,
        console=Console(file=text, width=120),
        title="Errors",
        loss=TotalLoss({"forces": {}, "energy": {}}),
        source=lambda index: f"folder/my.xyz, structure {index}",
    )
    with (tmp_path / "worst_val.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 and not (tmp_path / "worst_test.csv").exists()
    assert (
        rows[0]["source"].startswith("folder/my.xyz, structure 10")
        and rows[0]["flags"] == "forces: sign flipped"
    )
    assert {"share [%]", "share/forces [%]", "energy/error [meV/atom]", "forces/max_vector [meV/Å]"} <= set(
        rows[0]
    )
    assert float(rows[0]["share [%]"]) >= float(rows[9]["share [%]"]) > 0
    said = text.getvalue()
    assert "Worst structures, val" in said and "[meV/atom]" in said and "share of the loss" in said
    assert "val: 9 of 40 structures have forces of the opposite sign" in said


def work(rank, world, folder):
    """The worst structures of what two ranks have, one of them nothing in its last batch."""
    ranks._start(rank, world, folder)
    batch, predictions = clean()
    predictions = turned(batch, predictions, "forces", list(range(9)), -1.0)
    parts = [list(range(rank, 20, 2)), list(range(20, 40)) if rank else []]
    found = found_in(
        [(take(batch, part), chosen(batch, predictions, part)) for part in parts], LOSSES["groups"]()
    )
    torch.save([[*found.columns()], list(found.sentences), found.total], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def chosen(batch, predictions, part):
    atoms = torch.cat([(batch["batch"] == i).nonzero().flatten() for i in part] or [torch.zeros(0).long()])
    return {name: values[atoms if name == "forces" else part] for name, values in predictions.items()}


def test_ranks_find_what_one_process_finds(tmp_path):
    torch.multiprocessing.spawn(work, args=(2, str(tmp_path)), nprocs=2)
    batch, predictions = clean()
    predictions = turned(batch, predictions, "forces", list(range(9)), -1.0)
    whole = found_in([(batch, predictions)], LOSSES["groups"]())
    for rank in range(2):
        columns, sentences, total = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert columns == [*whole.columns()] and sentences == list(whole.sentences)
        assert total == pytest.approx(whole.total, rel=1e-12)

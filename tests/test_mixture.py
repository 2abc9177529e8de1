"""Datasets that train together: weight and sampling are two numbers, and one may be absent anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from pesloss.losses import PerGroup, PropertyTerm, TotalLoss, group_code
from pesloss.training import Trainer
from pesloss.training.launch import launch
from tests import files
from tests.batches import make, take
from tests.laws import accumulated, assert_finite, assert_same, value_and_gradients
from tests.trainings import prepared, rows, run, said, trained

LOSSES = {
    "weighted": lambda: TotalLoss(
        {"energy": {"residual": "per_atom"}, "forces": {}}, dataset_weights={"a": 3}
    ),
    "per group": lambda: TotalLoss(
        {
            "forces": PropertyTerm("forces", reduction=PerGroup({"a": 1.0, "b": 1.0}, key="dataset")),
            "energy": PropertyTerm("energy", reduction=PerGroup({"b": 2.0}, key="dataset")),
        }
    ),
}
A, B = [0, 2, 4, 6], [1, 3, 5, 7]
"""Structures of two datasets."""


def work(rank: int, folder: str) -> None:
    """Rank 0 has structures of the first dataset, rank 1 of the other; then one of them has none at all."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    for name, loss in LOSSES.items():
        for deal, shares in {"apart": (A, B), "one": (A, [])}.items():
            value, *slopes = value_and_gradients(loss(), take(make(), shares[rank]))
            for slope in slopes:
                dist.all_reduce(slope)
            found[f"{name}, {deal}"] = [value, *(slope / 2 for slope in slopes)]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_a_dataset_that_a_rank_lacks_neither_hangs_nor_scales(tmp_path):
    torch.multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, loss in LOSSES.items():
            assert_same(found[f"{name}, apart"], value_and_gradients(loss(), take(make(), A + B)))
            assert_same(found[f"{name}, one"], value_and_gradients(loss(), take(make(), A)))


@pytest.mark.parametrize("name", LOSSES)
def test_batches_of_one_dataset_each_are_one_step(name):
    batch = make()
    whole = value_and_gradients(LOSSES[name](), batch)
    assert_finite(whole)
    assert_same(accumulated(LOSSES[name](), [take(batch, A), take(batch, B)]), whole)


def test_an_absent_dataset_does_not_scale_a_mean_over_datasets():
    """Its coefficient is not in the denominator."""
    batch, loss = take(make(), A), LOSSES["per group"]().by_name["forces"]
    mixed = TotalLoss({"forces": loss})
    alone = TotalLoss({"forces": {}})
    assert_same(value_and_gradients(mixed, batch), value_and_gradients(alone, batch))


def data(folder: Path, **more: str) -> str:
    """Two datasets, the second in two files."""
    paths = {"first": [("first", 16)], "second": [("second", 8), ("third", 8)]}
    text = []
    for seed, (name, own) in enumerate(paths.items()):
        parts = [f"path: {files.write(folder / f'{path}.xyz', num, seed=seed)}" for path, num in own]
        text.append(f"{name}: [{', '.join(f'{{{part}{more.get(name, str())}}}' for part in parts)}]")
    return f"data.train={{{', '.join(text)}}}"


MIXED = {"first": ", weight: 2.0, sampling: 0.5", "second": ", sampling: 3"}
COMMON = ["data=files", "data.cache=null", "data.val_fraction=0.0", "data.test_fraction=0.0"]


def test_weight_and_sampling_of_each_dataset_are_told_and_logged_apart(tmp_path):
    options = [*COMMON, data(tmp_path, **MIXED), "+loss.dataset_weights.second=0.25"]
    fit, _ = trained(tmp_path / "run", *options)
    expected = {
        "weight/dataset=first": 2.0,
        "weight/dataset=second": 0.25,
        "sampling/dataset=first": 0.5,
        "sampling/dataset=second": 3.0,
        "sampling_ratio/dataset=first": 8 / 56,
        "sampling_ratio/dataset=second": 48 / 56,
    }
    for row in rows(tmp_path / "run/epochs.csv"):
        assert {name: row[name] for name in expected} == pytest.approx(expected)
    words = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said(fit).splitlines()]
    assert ["first", "16", "2", "0.5", "14.3%"] in words and ["second", "16", "0.25", "3", "85.7%"] in words


def test_the_logged_ratio_is_that_of_the_structures_of_the_batches(tmp_path):
    fit = prepared(tmp_path / "run", *COMMON, data(tmp_path, **MIXED), "trainer.epochs=1")
    chosen = [indices for step in fit._steps(0) for indices in step]
    seen = torch.cat([batch["dataset"] for batch in fit.loaded(fit.data.train, chosen)])
    run(fit)
    (row,) = rows(tmp_path / "run/epochs.csv")
    share = (seen == group_code("second")).double().mean().item()
    assert row["sampling_ratio/dataset=second"] == pytest.approx(share)


def test_of_a_single_dataset_nothing_is_logged(tmp_path):
    fit, _ = trained(tmp_path / "run", "trainer.epochs=1")
    assert not any("dataset=" in name for name in rows(tmp_path / "run/epochs.csv")[0])
    assert "Datasets of the training" not in said(fit)


FORCES = ["loss.weights.energy=0", "loss.weights.stress=0", "trainer.batch_size=1", "trainer.epochs=1"]
"""Steps of one structure of one dataset; the bias of the energies and lone atoms have no gradient."""


def train(fabric, folder: str, option: str) -> None:
    trained(Path(folder) / f"on{fabric.world_size}", *COMMON, option, *FORCES, fabric=fabric)


def test_ranks_without_a_dataset_train_as_one_process(tmp_path):
    option = data(tmp_path, **MIXED)
    for world in (1, 2):
        settings = Trainer(devices=world, precision="float64", accelerator="cpu")
        launch(settings, train, str(tmp_path), option)
    one, two = (rows(tmp_path / f"on{world}/steps.csv") for world in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-12)
    (a,), (b,) = (rows(tmp_path / f"on{world}/epochs.csv") for world in (1, 2))
    assert all(a[name] == b[name] for name in a if "dataset=" in name)

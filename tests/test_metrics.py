"""Errors are pooled: the same for any batches, order and ranks, and as a plain loop over the labels says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.multiprocessing.spawn import start_processes

from pesloss.losses import group_code
from pesloss.losses.batch import Batch, Predictions, structure_of_row
from pesloss.training.metrics import (
    ELEMENTS,
    MeanPredictor,
    Metric,
    Metrics,
    compared_per_atom,
    default_score,
    displayed_unit,
    groups_of,
    kinds,
    scores,
    table_columns,
)
from tests import batches

GROUPS = groups_of({*batches.CONFIG_TYPES, "never"}, "ab")
ELEMENT_NUMBERS = torch.tensor([1, 6, 8])
DEALS = [[[0, 1, 2, 3, 4, 5, 6, 7]], [[7, 2], [], [5], [0, 1, 3, 4, 6]], [[i] for i in range(8)]]
HALVES = [[[0, 3], [7]], [[], [1, 2, 4, 5, 6]]]


def make() -> dict[str, torch.Tensor]:
    batch = batches.make()
    generator = torch.Generator().manual_seed(5)
    atoms = len(batch["batch"])
    batch["numbers"] = ELEMENT_NUMBERS[torch.randint(3, (atoms,), generator=generator)]
    return batch


def predicted(batch: Batch) -> Predictions:
    return {name: batch[f"x::{name}"] for name in batches.ALL}


def metrics_of(parts: list[dict[str, torch.Tensor]]) -> dict[str, Metric]:
    metrics = Metrics(batches.ALL, GROUPS)
    for part in parts:
        metrics.update(predicted(part), part)
    return metrics.compute()


def assert_same(found: dict[str, Metric], expected: dict[str, Metric]) -> None:
    assert set(found) == set(expected)
    for key, metric in expected.items():
        assert found[key].value == pytest.approx(metric.value, rel=1e-12, abs=1e-12), key
        assert found[key][1:] == metric[1:]


@pytest.mark.parametrize("deal", DEALS)
def test_neither_batches_nor_their_order_matter(deal):
    batch = make()
    assert_same(metrics_of([batches.take(batch, part) for part in deal]), metrics_of([batch]))


def test_ranks_do_not_matter(tmp_path):
    start_processes(_work, (2, str(tmp_path)), nprocs=2, start_method="spawn")
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert_same({key: Metric(*values) for key, values in found.items()}, metrics_of([make()]))


def _work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    batch = make()
    found = metrics_of([batches.take(batch, part) for part in HALVES[rank]])
    torch.save({key: tuple(metric) for key, metric in found.items()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("name", batches.ALL)
@pytest.mark.parametrize("group", ["", "/element=C", "/config_type=surface", "/dataset=b"])
def test_they_equal_a_plain_loop(name, group):
    batch, found = make(), metrics_of([make()])
    prop = batches.ALL[name]
    if prop.rows != "atom" and "element" in group:
        assert f"{name}/{next(iter(kinds(prop)))}{group}" not in found
        return
    rows = _rows(name, group, batch)
    if group and all(np.isnan(error).all() for error, _ in rows):
        assert not [key for key in found if key.startswith(f"{name}/") and key.endswith(group)]
        return
    factor, unit = displayed_unit(prop)
    for kind, (value, labels) in _plainly(rows, prop.shape).items():
        expected = Metric(factor * value, unit, labels)
        if kind.endswith("_total"):
            expected = expected._replace(unit=unit.removesuffix("/atom"))
        # a property that one group alone has labels of is told of the whole only
        if kind in kinds(prop) and (not labels or _is_alone(name, group, batch)):
            assert f"{name}/{kind}{group}" not in found
        elif kind in kinds(prop):
            metric = found[f"{name}/{kind}{group}"]
            assert metric.value == pytest.approx(expected.value, rel=1e-12) and metric[1:] == expected[1:]


def _is_alone(name: str, group: str, batch: Batch) -> bool:
    kind = group.removeprefix("/").partition("=")[0]
    labelled = [
        other
        for other in GROUPS.get(kind, {})
        if any(not np.isnan(error).all() for error, _ in _rows(name, f"/{kind}={other}", batch))
    ]
    return bool(kind) and len(labelled) < 2


def _rows(name: str, group: str, batch: Batch) -> list[tuple[np.ndarray, float]]:
    """Error of each row of a group, with NaN for missing entries, and the number of atoms it is of."""
    prop, rows = batches.ALL[name], []
    structures = structure_of_row(batch, prop.rows, len(batch[name]))
    kind, _, wanted = group.removeprefix("/").partition("=")
    for row, (label, prediction) in enumerate(zip(batch[name], batch[f"x::{name}"], strict=True)):
        structure = int(structures[row])
        code = {"element": ELEMENTS.get(wanted), "": None}.get(kind, group_code(wanted))
        place = {"element": batch["numbers"], "": None}.get(kind, batch.get(kind))
        at = row if kind == "element" else structure
        if place is None or int(place[at]) == code:
            atoms = int(batch["ptr"][structure + 1] - batch["ptr"][structure])
            size = atoms if compared_per_atom(prop) else 1
            error = np.asarray((prediction - label) / size).reshape(-1)
            if name == "polarization" and not np.isnan(error).any():
                cell = batch["cell"][structure].numpy()
                error = error - np.round(np.linalg.solve(cell.T, error)) @ cell
            rows.append((error, size))
    return rows


def _plainly(rows: list[tuple[np.ndarray, float]], shape: tuple[int, ...]) -> dict[str, tuple[float, int]]:
    errors = [e for row, _ in rows for e in row if not np.isnan(e)]
    n = len(errors)
    if shape:
        lengths = [float(np.sqrt(np.sum(row**2))) for row, _ in rows if not np.isnan(row).any()]
        return {
            "mae_component": (sum(map(abs, errors)) / n, n),
            "rmse_component": (float(np.sqrt(np.mean(np.square(errors)))), n),
            "mae_vector": (sum(lengths) / max(len(lengths), 1), len(lengths)),
            "rmse_vector": (float(np.sqrt(np.sum(np.square(lengths)) / max(len(lengths), 1))), len(lengths)),
        }
    totals = [size * e for row, size in rows for e in row if not np.isnan(e)]
    return {
        "mae": (sum(map(abs, errors)) / n, n),
        "rmse": (float(np.sqrt(np.mean(np.square(errors)))), n),
        "bias": (sum(errors) / n, n),
        "deviation": (float(np.std(errors)), n),
        "mae_total": (sum(map(abs, totals)) / n, n),
        "rmse_total": (float(np.sqrt(np.mean(np.square(totals)))), n),
    }


def test_a_missing_label_counts_nowhere():
    batch = make()
    whole = metrics_of([batch])
    extended = batches.make((*batches.SIZES, 3))
    for name, value in batch.items():
        if name not in ("ptr", "batch") and value.is_floating_point():
            extended[name] = torch.cat([value, torch.full((3, *value.shape[1:]), batches.MISSING)])
            extended[name] = extended[name][: len(value) + (3 if len(value) == len(batch["batch"]) else 1)]
    extended["numbers"] = torch.cat([batch["numbers"], torch.tensor([1, 6, 8])])
    extended["config_type"] = torch.cat([batch["config_type"], batch["config_type"][:1]])
    extended["dataset"] = torch.cat([batch["dataset"], batch["dataset"][:1]])
    for name in batches.ALL:
        extended[f"x::{name}"] = extended[f"x::{name}"].nan_to_num(7.0)
    assert_same(metrics_of([extended]), whole)


def test_a_nan_prediction_is_loud():
    batch = make()
    row = int((~batch["charges"].isnan()).nonzero()[0])
    batch["x::charges"][row] = float("nan")
    found = metrics_of([batch])
    assert np.isnan(found["charges/mae"].value) and found["charges/mae"].labels > 0
    assert np.isfinite(found["dipole/mae_component"].value)


def test_properties_and_batches_without_labels_are_left_out():
    batch = make()
    del batch["forces"], batch["config_type"]
    batch["energy"][:] = batches.MISSING
    found = metrics_of([batch, batches.take(batch, [])])
    assert not any(key.startswith(("forces/", "energy/")) for key in found)
    assert "dipole/mae_component/dataset=a" in found and "charges/mae/element=O" in found


def test_a_kind_of_group_with_a_single_group_says_nothing_new():
    batch = make()
    batch["numbers"][:] = 6
    assert not any("element=" in key for key in metrics_of([batch]))


def test_a_constant_offset_is_bias_and_no_deviation():
    batch = make()
    batch["x::charges"] = batch["charges"] - 0.5
    found = metrics_of([batch])
    assert found["charges/bias"].value == pytest.approx(-0.5) and found["charges/deviation"].value < 1e-7


def test_a_single_precision_model_is_summed_in_double():
    batch = {name: value.float() if value.is_floating_point() else value for name, value in make().items()}
    many = Metrics(batches.ALL)
    for _ in range(1000):
        many.update(predicted(batch), batch)
    once = Metrics(batches.ALL)
    once.update(predicted(batch), batch)
    for key, metric in once.compute().items():
        assert many.compute()[key].value == pytest.approx(metric.value, rel=1e-12)


def test_names_have_units():
    batch = make()
    columns = table_columns(metrics_of([batch]), "test")
    assert {
        "test/energy/mae [meV/atom]",
        "test/energy/mae_total [meV]",
        "test/forces/rmse_vector [meV/Å]",
        "test/forces/mae_component/element=C [meV/Å]",
        "test/stress/mae_component/dataset=a [meV/Å³]",
        "test/charges/bias [e]",
    } <= set(columns)


def test_every_score_is_an_error():
    found = metrics_of([make()])
    assert set(scores(batches.ALL)) <= set(found) and not any("bias" in name for name in scores(batches.ALL))
    assert default_score(batches.ALL) == "forces/mae_component"
    assert default_score({"stress": batches.ALL["stress"], "energy": batches.ALL["energy"]}) == (
        "stress/mae_component"
    )


def test_the_mean_predictor_has_no_bias_and_does_not_depend_on_chunks():
    batch = make()
    chunks = [batches.take(batch, part) for part in DEALS[1]]
    mean = MeanPredictor.fit(batches.ALL, chunks)
    metrics = Metrics(mean.properties)
    metrics.update(mean(batch), batch)
    found = metrics.compute()
    assert found["charges/bias"].value == pytest.approx(0, abs=1e-12)
    assert found["energy/bias"].value == pytest.approx(0, abs=1e-9)
    known = batch["charges"][~batch["charges"].isnan()]
    assert found["charges/rmse"].value == pytest.approx(float(known.std(correction=0)))
    whole = MeanPredictor.fit(batches.ALL, [batch]).means
    for name, value in mean.means.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-12, atol=1e-12)


def test_a_property_without_a_training_label_has_no_mean():
    batch = make()
    train = {**batch, "charges": torch.full_like(batch["charges"], batches.MISSING)}
    del train["dipole"]
    assert {"charges", "dipole"}.isdisjoint(MeanPredictor.fit(batches.ALL, [train]).properties)


def test_no_number_is_read_while_batches_come():
    """A tensor without values stands for a device that must not be waited for."""
    batch = make()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        metrics = Metrics(batches.ALL, GROUPS)
        fake = {name: mode.from_tensor(value) for name, value in batch.items()}
        metrics.update(predicted(fake), fake)
        with pytest.raises(DataDependentOutputException):
            metrics.compute()

"""The end of a run: one set of names in files and tables, the baseline beside the model, plots of samples."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from pesloss.data import References, pack, read
from pesloss.losses import PROPERTIES
from pesloss.report import PredictionFiles, conclude
from pesloss.report.plots import ParitySample, learning_curves
from pesloss.training.metrics import MeanPredictor, Metrics, groups_of
from tests import batches, files
from tests.test_metrics import make, predicted

GROUPS = groups_of(batches.CONFIG_TYPES, "ab")


def concluded(folder: Path | None, **options) -> tuple[dict, str]:
    text = io.StringIO()
    batch = make()
    parts = {"val": [batches.take(batch, [0, 1, 2])], "test": [batches.take(batch, [4, 5]), batch]}
    metrics = conclude(
        {split: iter([(part, predicted(part)) for part in found]) for split, found in parts.items()},
        batches.ALL,
        folder=folder,
        console=Console(file=text, width=140),
        title="Errors",
        **options,
    )
    return metrics, text.getvalue()


def test_everything_is_in_the_folder(tmp_path):
    mean = MeanPredictor.fit(batches.ALL, [make()])
    metrics, text = concluded(tmp_path, groups=GROUPS, mean=mean, about={"seconds": 1.5})
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics and metrics["seconds"] == 1.5
    assert {"metrics", "baseline", "labels"} <= set(metrics)
    assert set(metrics["baseline"]) <= set(metrics["metrics"]) == set(metrics["labels"])
    assert metrics["labels"]["test/energy/mae [meV/atom]"] == metrics["labels"]["test/energy/mae_total [meV]"]
    assert {f"parity_{name}.png" for name in PROPERTIES} <= {path.name for path in tmp_path.iterdir()}
    assert "deviation" in text and "config_type=bulk" in text and "MAE of the mean" in text


def test_the_table_tells_what_the_file_holds(tmp_path):
    metrics, text = concluded(tmp_path)
    value = metrics["metrics"]["test/forces/mae_component [meV/Å]"]
    assert f"{value:.4g}" in text and metrics["baseline"] == {}
    assert "By group" not in text


def test_other_ranks_write_nothing(tmp_path):
    metrics, text = concluded(None)
    assert metrics["metrics"] and text == "" and not list(tmp_path.iterdir())


def test_errors_are_those_of_the_metrics(tmp_path):
    metrics, _ = concluded(tmp_path)
    pooled = Metrics(batches.ALL)
    for part in (batches.take(make(), [4, 5]), make()):
        pooled.update(predicted(part), part)
    for key, metric in pooled.compute().items():
        assert metrics["metrics"][metric.column(f"test/{key}")] == metric.value


def test_a_sample_is_of_all_batches_and_does_not_depend_on_them():
    values = torch.arange(10_000, dtype=torch.float64)
    batch = {"ptr": torch.arange(10_001), "charges": values}
    parts = [{"ptr": torch.arange(51), "charges": part} for part in values.split(50)]
    samples = [ParitySample(PROPERTIES["charges"], size=100) for _ in range(2)]
    samples[0].update({"charges": values + 1}, batch)
    for part in parts:
        samples[1].update({"charges": part["charges"] + 1}, part)
    for sample in samples:
        label, prediction = sample.points()
        assert len(label) == 100 and (prediction - label == 1).all()
        assert 3000 < label.mean() < 7000 and label.min() < 1000 and label.max() > 9000
    assert set(samples[0].points()[0]) == set(samples[1].points()[0])


def test_learning_curves_of_a_resumed_run_with_new_columns(tmp_path):
    steps = "step,loss,value/energy,value/forces\n1,1.0,0.5,\n2,0.9,0.4,0.0\n3,0.8,0.3,0.2\n"
    epochs = "step,epoch,val/energy/mae [meV/atom],val/energy/rmse [meV/atom]\n3,1,2.0,3.0\n6,2,1.0,2.0\n"
    (tmp_path / "steps.csv").write_text(steps)
    assert learning_curves(tmp_path) is None
    (tmp_path / "epochs.csv").write_text(epochs)
    assert learning_curves(tmp_path) == tmp_path / "learning_curves.png"


REFERENCES = References({"Cu": -3.0, "Au": -4.0})


def written(folder: Path, *sizes: int) -> tuple[list[Atoms], list[dict[str, str]], dict]:
    """Predictions of half of each label, in batches of these sizes: atoms, table and the batch of all."""
    names = ("energy", "forces", "stress", "dipole", "charges", "polarizability")
    properties = {name: PROPERTIES[name] for name in names}
    atoms = files.structures(sum(sizes))
    for i, one in enumerate(atoms):
        one.calc.results |= {"charges": np.arange(len(one)) / 10} if i % 2 else {}
        one.info["polarizability"] = np.eye(3) * (i + 1)
    ase.io.write(folder / "some.xyz", atoms, format="extxyz")
    structures = read(folder / "some.xyz", properties)
    part = pack(structures, properties, 3.0)
    source = [structure.source for structure in structures].__getitem__
    rng = torch.Generator().manual_seed(0)
    with PredictionFiles(
        folder,
        "test",
        properties=properties,
        references=REFERENCES,
        source=source,
        groups=["some", "crystal", "cluster"],
    ) as out:
        for indices in torch.arange(len(atoms)).split(sizes):
            batch = part.batch(indices)
            rows = {"structure": len(indices), "atom": len(batch["batch"])}
            out.write(
                batch,
                {
                    name: torch.randn(rows[prop.rows], *prop.shape, generator=rng)
                    for name, prop in properties.items()
                },
            )
    with (folder / "predictions_test.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    return ase.io.read(folder / "predictions_test.extxyz", ":"), table, part.batch(range(len(atoms)))


def test_predictions_stand_beside_the_labels(tmp_path):
    atoms, _, batch = written(tmp_path, 5, 4)
    originals = ase.io.read(tmp_path / "some.xyz", ":")
    rng = torch.Generator().manual_seed(0)
    energies = torch.randn(5, generator=rng)
    for one, original in zip(atoms, originals, strict=True):
        np.testing.assert_allclose(one.positions, original.positions, atol=1e-8)
        np.testing.assert_allclose(one.cell.array, original.cell.array, atol=1e-8)
        assert (one.pbc == original.pbc).all()
        labels = {n: label for n, label in original.calc.results.items() if not np.isnan(label).all()}
        for name, label in labels.items():
            np.testing.assert_allclose(one.calc.results[name], label, atol=1e-8)
        assert set(one.calc.results) == set(labels)
        assert one.info["config_type"] == original.info["config_type"]
        assert one.arrays["pesloss_forces"].shape == (len(one), 3) and one.info["pesloss_stress"].shape == (
            3,
            3,
        )
        np.testing.assert_allclose(one.info["polarizability"], original.info["polarizability"])
    for one, energy in zip(atoms[:5], energies, strict=True):
        reference = sum(REFERENCES.as_dict()[symbol] for symbol in one.symbols)
        assert one.info["pesloss_energy"] == pytest.approx(float(energy) + reference, abs=1e-6)
    assert set(batch) >= {"energy", "forces"}


def test_what_was_written_can_be_read_as_data(tmp_path):
    atoms, _, _ = written(tmp_path, 6)
    again = read(
        tmp_path / "predictions_test.extxyz",
        {name: PROPERTIES[name] for name in ("energy", "forces")},
        keys={"energy": "pesloss_energy", "forces": "pesloss_forces"},
    )
    for structure, one in zip(again, atoms, strict=True):
        assert structure.labels["energy"] == pytest.approx(one.info["pesloss_energy"])
        np.testing.assert_allclose(structure.labels["forces"], one.arrays["pesloss_forces"])


def test_the_table_has_a_row_a_structure(tmp_path):
    atoms, table, _ = written(tmp_path, 4, 5)
    assert len(table) == 9 and table[0]["source"].endswith("some.xyz, structure 0")
    assert {row["dataset"] for row in table} == {"some"}
    for row, one in zip(table, atoms, strict=True):
        assert row["formula"] == one.get_chemical_formula() and int(row["atoms"]) == len(one)
        if "energy" in one.calc.results:
            error = 1000 * (one.info["pesloss_energy"] - one.get_potential_energy()) / len(one)
            assert float(row["energy/error [meV/atom]"]) == pytest.approx(error, abs=1e-4)
        else:
            assert row["energy/label [eV]"] == row["energy/error [meV/atom]"] == ""
        if "forces" in one.calc.results:
            error = 1000 * (one.arrays["pesloss_forces"] - one.calc.results["forces"])
            rmse, largest = np.sqrt(np.nanmean(error**2)), np.nanmax(np.linalg.norm(error, axis=1))
            assert float(row["forces/rmse_component [meV/Å]"]) == pytest.approx(rmse, abs=1e-3)
            assert float(row["forces/max_vector [meV/Å]"]) == pytest.approx(largest, abs=1e-3)
        else:
            assert row["forces/rmse_component [meV/Å]"] == row["forces/max_vector [meV/Å]"] == ""
        assert (row["charges/max [e]"] != "") == ("charges" in one.calc.results)
        assert (row["stress/rmse_component [meV/Å³]"] != "") == (one.cell.rank == 3)
        assert row["dipole/rmse_component [e·Å]"] == ""


def test_files_do_not_depend_on_the_batches(tmp_path):
    # predictions are drawn batch by batch, so the labels are what can be compared
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole, parts = written(tmp_path / "a", 9)[1], written(tmp_path / "b", 2, 7)[1]
    for a, b in zip(whole, parts, strict=True):
        assert a["energy/label [eV]"] == b["energy/label [eV]"] and list(a) == list(b)


def test_a_fixed_atom_stays_fixed(tmp_path):
    atoms = files.structures(1)[0]
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    properties = {"energy": PROPERTIES["energy"]}
    ase.io.write(tmp_path / "one.xyz", atoms)
    batch = {**pack(read(tmp_path / "one.xyz", properties), properties, 3.0).batch([0])}
    batch["fixed"][0] = True
    with PredictionFiles(
        tmp_path, "test", properties=properties, references=REFERENCES, source=str, groups=["one"]
    ) as out:
        out.write(batch, {"energy": torch.zeros(1)})
    (constraint,) = ase.io.read(tmp_path / "predictions_test.extxyz").constraints
    assert constraint.get_indices().tolist() == [0]


def test_a_nan_prediction_shows(tmp_path):
    properties = {name: PROPERTIES[name] for name in ("energy", "forces")}
    ase.io.write(tmp_path / "two.xyz", files.structures(2), format="extxyz")
    batch = pack(read(tmp_path / "two.xyz", properties), properties, 3.0).batch([0, 1])
    wrong = {name: torch.full_like(batch[name], torch.nan) for name in properties}
    with PredictionFiles(
        tmp_path, "test", properties=properties, references=REFERENCES, source=str, groups=["two"]
    ) as out:
        out.write(batch, wrong)
    with (tmp_path / "predictions_test.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert row["energy/prediction [eV]"] == row["energy/error [meV/atom]"] == "nan"
    assert row["forces/rmse_component [meV/Å]"] == row["forces/max_vector [meV/Å]"] == "nan"

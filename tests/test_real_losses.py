"""Losses of polarizations, dipoles of charges and outliers fall on data that need them."""

from __future__ import annotations

import json
from collections.abc import Callable

import ase.io
import pytest
import torch
from torch import Tensor

import pesloss
from pesloss.data import Files, Packed
from pesloss.losses import ConditionalHuber, DipoleFromCharges, PropertyTerm, TotalLoss
from pesloss.losses.properties import as_properties
from pesloss.models import PaiNN, Potential
from pesloss.training import Metrics
from tests.test_shared_data import shared
from tests.test_train import app

POLARIZATION = PropertyTerm("polarization", residual="modulo_quantum")
BATIO3 = 135
"""Atoms of each cell, in one order."""
ION = 27
"""Atoms of the molecule that has fifty of the dipoles."""


def load(name: str, *properties: str, cutoff: float = 0.5, **options) -> Packed:
    files = Files(str(shared(name)), val_fraction=0, test_fraction=0, cache=None, **options)
    return files.load(as_properties(properties), cutoff, torch.float64).train


def fitted(
    loss: Callable[[], Tensor], parameters: list[Tensor], *, steps: int, rate: float
) -> tuple[float, float]:
    """The loss before and after some steps."""
    optimizer = torch.optim.Adam(parameters, lr=rate)
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values[0], values[-1]


@pytest.fixture(scope="module")
def cells() -> dict[str, Tensor]:
    """The dipole of each cell in e·Å, on whatever branch the electronic structure code found it."""
    part = load("BaTiO3_pol/BaTiO3.xyz.gz", "polarization", "born_effective_charges")
    return part.batch(range(len(part)))


def moved(batch: dict[str, Tensor]) -> Tensor:
    """How far the atoms of each of three elements are from their mean places, added up."""
    places = batch["positions"].view(-1, BATIO3, 3)
    steps = (places - places[:1]) @ torch.linalg.inv(batch["cell"])
    displaced = (steps - steps.round()) @ batch["cell"]
    numbers = batch["numbers"][:BATIO3]
    return torch.stack([(displaced - displaced.mean(0))[:, numbers == z].sum(1) for z in (56, 22, 8)], dim=1)


def born_model(batch: dict[str, Tensor]) -> tuple[Callable[[], dict[str, Tensor]], list[Tensor]]:
    """``P = P₀ + Σ_i Z_i u_i`` with a charge Z of each element."""
    displaced = moved(batch)
    charges, origin = (torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    return lambda: {"polarization": torch.einsum("z,szd->sd", charges, displaced) + origin}, [charges, origin]


def test_charges_of_ions_are_found_in_polarizations_of_any_branch(cells):
    """Titanium's and oxygen's are near the mean Born charges; the plain difference sees branches only."""
    predict, (charges, origin) = born_model(cells)
    loss = TotalLoss({"polarization": POLARIZATION})
    first, last = fitted(lambda: loss(predict(), cells), [charges, origin], steps=120, rate=0.3)
    assert last < 0.1 * first
    born = cells["born_effective_charges"].diagonal(dim1=1, dim2=2).mean(1)
    for found, number in zip(charges[1:].tolist(), (22, 8), strict=True):
        assert found == pytest.approx(born[cells["numbers"] == number].mean().item(), rel=0.2)
    plain = TotalLoss({"polarization": {"property": "polarization"}})
    assert plain(predict(), cells) > 20 * last


def test_a_branch_of_the_polarization_is_as_good_as_another(cells):
    """A label that is moved by lattice vectors times e changes neither value nor gradient."""
    whole = torch.randint(-2, 3, (59, 3), generator=torch.Generator().manual_seed(0)).double()
    branch = {
        **cells,
        "polarization": cells["polarization"] + torch.einsum("sk,skd->sd", whole, cells["cell"]),
    }
    found = {}
    for residual in ("modulo_quantum", "difference"):
        loss = TotalLoss({"polarization": PropertyTerm("polarization", residual=residual)})
        prediction = torch.full((59, 3), 0.3, dtype=torch.float64, requires_grad=True)
        values = [loss({"polarization": prediction}, batch) for batch in (cells, branch)]
        found[residual] = [(value, *torch.autograd.grad(value, prediction)) for value in values]
    for one, other in zip(*found["modulo_quantum"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    (one, slope), (other, moved_slope) = found["difference"]
    assert abs(one - other) > 1
    assert (slope - moved_slope).abs().max() > 0.1


def test_errors_of_a_polarization_are_those_of_the_nearest_branch(cells):
    """Two quanta away is no error; what is told and plotted is on the branch of the label."""
    metrics = Metrics(as_properties(["polarization"]))
    away = cells["polarization"] + 2 * cells["cell"][:, 0] - cells["cell"][:, 2] + 0.01
    metrics.update({"polarization": away}, cells)
    assert metrics.compute()["polarization/mae_component"].value == pytest.approx(0.01, rel=1e-6)


def test_vectors_of_atoms_learn_a_polarization():
    part = load("BaTiO3_pol/BaTiO3.xyz.gz", "polarization", cutoff=3.0)
    batch = part.batch([0, 20, 40])
    torch.manual_seed(0)
    potential = Potential(PaiNN(8, 1, 3.0, radial=6, heads=["energy", "polarization"]).double())
    loss = TotalLoss({"polarization": POLARIZATION})
    first, last = fitted(
        lambda: loss(potential(batch, loss.required), batch), [*potential.parameters()], steps=140, rate=0.02
    )
    assert last < 0.5 * first


def test_charges_learn_the_dipole_of_an_ion_and_with_it_its_charge():
    """Dipoles of an ion hold its charge times their origin, which charges around their mean cannot have."""
    part = load("spice_n2/spice_n2.xyz.gz", "dipole")
    batch = part.batch([i for i, num in enumerate(part.num_atoms) if num == ION])
    left = {}
    for center in ("none", "positions"):
        term = PropertyTerm("dipole", prediction=DipoleFromCharges(center=center))
        loss = TotalLoss({"dipole": term})
        charges = torch.zeros(ION, dtype=torch.float64, requires_grad=True)

        def value(charges=charges, loss=loss) -> Tensor:
            return loss({"charges": charges.repeat(len(batch["ptr"]) - 1)}, batch)

        first, last = fitted(value, [charges], steps=150, rate=0.05)
        left[center] = last / first, charges.sum().item()
    assert left["none"][0] < 1e-3
    assert left["none"][1] == pytest.approx(1, abs=0.02)
    assert 0.1 < left["positions"][0] < 0.3


def test_a_run_learns_charges_from_dipoles_and_tells_errors_of_dipoles(tmp_path):
    """The model predicts charges alone, and the folder of the run knows how dipoles are made of them."""
    path = shared("spice_n2/spice_n2.xyz.gz")
    done = app(
        tmp_path,
        *("data=files", f"data.train={path}", "loss=energy"),
        *("~loss/term@loss.terms.energy", "~loss.weights.energy", "+loss/term@loss.terms.dipole=dipole"),
        "+loss.terms.dipole.prediction=dipole_from_charges",
        *("model.channels=16", "model.layers=1", "trainer.epochs=4", "trainer.accelerator=cpu"),
        *("logger=csv", "hydra.run.dir=out"),
    )
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[3]) for line in done.stdout.splitlines() if line.startswith("epoch ")]
    assert len(losses) == 4 and losses[-1] < 0.8 * losses[0]
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["score"]["name"] == "dipole/mae_component"
    assert metrics["metrics"]["test/dipole/mae_component [e·Å]"] > 0
    trained, atoms = pesloss.load(tmp_path / "out"), ase.io.read(path, 0)
    assert trained.properties.keys() == {"dipole"}
    found = trained.predict(atoms, ["dipole", "charges"])
    assert found["dipole"] == pytest.approx(found["charges"] @ atoms.positions, abs=1e-4)


def test_the_largest_forces_of_carbon_pull_less_and_the_rest_is_learned():
    part = load("carbon_gap17/carbon_subset.xyz.gz", "forces", cutoff=3.0)
    chunks = torch.cat([chunk["forces"].norm(dim=1) for chunk in part.chunks(["forces"])])
    sizes = [size.max().item() for size in chunks.split(part.num_atoms.tolist())]
    extreme = sizes.index(max(sizes))
    batch = part.batch([*range(0, len(part), 40), extreme])
    loss = TotalLoss({"forces": PropertyTerm("forces", penalty=ConditionalHuber(1.0))})
    label = batch["forces"]
    nothing = torch.zeros_like(label, requires_grad=True)
    (pull,) = torch.autograd.grad(loss({"forces": nothing}, batch), nothing)
    beyond = label.norm(dim=1) >= 100
    assert beyond.any()
    linear = label.abs() > 1
    torch.testing.assert_close(
        pull[beyond[:, None] & linear].abs().max() / pull[~beyond[:, None] & linear].abs().max(),
        torch.tensor(0.7, dtype=torch.float64),
    )
    torch.manual_seed(0)
    potential = Potential(PaiNN(8, 1, 3.0, radial=8).double())
    potential.network.set_scale(3.0)
    first, last = fitted(
        lambda: loss(potential(batch, ["forces"]), batch), [*potential.parameters()], steps=25, rate=0.02
    )
    assert last < 0.75 * first

"""Quantities of a structure from what is predicted of its atoms."""

import numpy as np
import pytest
import torch
from ase.data import atomic_masses

from pesloss.losses import DERIVED as NAMED
from pesloss.losses import Combination, DipoleFromCharges, Property, PropertyTerm, SumOverAtoms, TotalLoss
from tests.batches import make, take
from tests.laws import EXACT, HostSynchronisations
from tests.parts import DERIVED

SHAPES = {"charges": (), "atomic_energies": (), "populations": (2,), "atomic_dipoles": (3,)}
OF_STRUCTURES = [name for name in DERIVED if name != "spin"]
DIPOLES = [name for name in DERIVED if name.startswith("dipole")]


def batch_of(sizes=(1, 3, 5, 2), seed=0):
    """Structures with positions, elements and coefficients."""
    batch = make(sizes, seed=seed)
    random, atoms = torch.Generator().manual_seed(seed + 1), len(batch["batch"])
    batch["positions"] = torch.randn(atoms, 3, generator=random, dtype=torch.float64) + 5
    batch["numbers"] = torch.tensor([1, 6, 8])[torch.arange(atoms) % 3]
    batch["atomic_energy_coefficients"] = torch.tensor([-1.0, 2.0])[torch.arange(atoms) % 2]
    for name, shape in SHAPES.items():
        batch[f"p::{name}"] = torch.randn(atoms, *shape, generator=random, dtype=torch.float64)
    return batch


def predicted(batch):
    return {name: batch[f"p::{name}"].clone().requires_grad_() for name in SHAPES}


def origin(name, positions, numbers):
    if name == "dipole_from_charges":
        return positions.mean(0)
    masses = atomic_masses[numbers]
    return masses @ positions / masses.sum() if "mass" in name else 0


def reference(name, batch):
    """The same in a loop over structures."""
    b = {key: value.numpy() for key, value in batch.items()}
    rows = []
    for start, end in zip(b["ptr"], b["ptr"][1:], strict=False):
        s = slice(start, end)
        if name == "spin":
            rows += list(b["p::populations"][s, 0] - b["p::populations"][s, 1])
        elif name in DIPOLES:
            arms = b["positions"][s] - origin(name, b["positions"][s], b["numbers"][s])
            own = b["p::atomic_dipoles"][s].sum(0) if name == "dipole_of_positions" else 0
            rows.append(b["p::charges"][s] @ arms + own)
        elif name == "total_charge":
            rows.append(b["p::charges"][s].sum())
        else:
            factors = b["atomic_energy_coefficients"][s] if name == "combination" else 1
            rows.append((factors * b["p::atomic_energies"][s]).sum())
    return np.array(rows)


@pytest.mark.parametrize("name", DERIVED)
def test_equals_a_loop(name):
    batch = batch_of()
    found = DERIVED[name]()(predicted(batch), batch).detach().numpy()
    np.testing.assert_allclose(found, reference(name, batch), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", DERIVED)
def test_what_it_stands_for_can_be_compared_with_a_label(name):
    """Value and gradient of a term are those of the loop's numbers."""
    batch, part = batch_of(), DERIVED[name]()
    predictions = predicted(batch)
    expected = torch.from_numpy(reference(name, batch))
    batch[part.property] = torch.randn(expected.shape, dtype=torch.float64)
    loss = TotalLoss({"term": PropertyTerm(part.property, prediction=part, weighted_by=[])})
    assert set(loss.required) == set(part.required) <= set(predictions)
    total = loss(predictions, batch)
    torch.testing.assert_close(total.detach(), (expected - batch[part.property]).square().mean(), **EXACT)
    needed = [predictions[key] for key in part.required]
    assert all(bool((g != 0).any()) for g in torch.autograd.grad(total, needed))


@pytest.mark.parametrize("name", DERIVED)
def test_every_name_gives_its_part(name):
    if name in NAMED:
        assert type(NAMED[name]()) is type(DERIVED[name]())
    assert DERIVED[name]().formula()


@pytest.mark.parametrize("name", DERIVED)
def test_structures_do_not_see_each_other(name):
    batch, part = batch_of(), DERIVED[name]()
    alone = torch.cat([part(predicted(one), one) for one in (take(batch, [s]) for s in range(4))])
    torch.testing.assert_close(alone, part(predicted(batch), batch), rtol=1e-14, atol=1e-14)
    assert part(predicted(take(batch, [])), take(batch, [])).shape[0] == 0


@pytest.mark.parametrize("name", DERIVED)
def test_it_is_linear_in_the_predictions(name):
    batch, part = batch_of(), DERIVED[name]()
    one = predicted(batch)
    two = {key: torch.randn_like(value) for key, value in one.items()}
    both = part({key: 2 * one[key] - 3 * two[key] for key in one}, batch)
    torch.testing.assert_close(both, 2 * part(one, batch) - 3 * part(two, batch), **EXACT)


@pytest.mark.parametrize("name", DERIVED)
def test_nothing_waits_for_the_device(name):
    batch, part = batch_of(), DERIVED[name]()
    predictions = predicted(batch)
    with HostSynchronisations() as waiting:
        part(predictions, batch).sum().backward()
    assert not waiting.found


@pytest.mark.parametrize("name", DERIVED)
def test_half_precision_is_summed_in_single(name):
    batch = batch_of()
    half = {key: value.detach().bfloat16() for key, value in predicted(batch).items()}
    found = DERIVED[name]()(half, batch)
    assert found.dtype == torch.float32
    single = {key: value.float() for key, value in half.items()}
    assert torch.equal(found, DERIVED[name]()(single, batch))


@pytest.mark.parametrize("name", DERIVED)
def test_what_is_missing_is_named(name):
    batch, part = batch_of(), DERIVED[name]()
    needed = next(iter(part.required))
    with pytest.raises(KeyError, match=f"No '{needed}' in predictions; found"):
        part({}, batch)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("combination", "atomic_energy_coefficients"),
        ("dipole_from_charges", "positions"),
        ("dipole_from_center_of_mass", "numbers"),
    ],
)
def test_what_the_batch_lacks_is_named(name, key):
    batch = batch_of()
    del batch[key]
    predictions = predicted(batch_of())
    with pytest.raises(KeyError, match=rf"No '{key}' \[atoms\] in the batch"):
        DERIVED[name]()(predictions, batch)


# ---- dipoles ----


@pytest.mark.parametrize("name", DIPOLES)
def test_a_dipole_turns_with_its_molecule(name):
    batch, part = batch_of(), DERIVED[name]()
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    predictions = predicted(batch)
    turned = part(
        {**predictions, "atomic_dipoles": predictions["atomic_dipoles"] @ rotation},
        {**batch, "positions": batch["positions"] @ rotation},
    )
    torch.testing.assert_close(turned, part(predictions, batch) @ rotation, **EXACT)


@pytest.mark.parametrize("name", DIPOLES)
def test_a_dipole_of_an_ion_moves_with_an_origin_of_its_own_only(name):
    """Of neutral molecules all origins are the same."""
    batch, part = batch_of(), DERIVED[name]()
    predictions, shift = predicted(batch), torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    moved = {**batch, "positions": batch["positions"] + shift}
    charge = SumOverAtoms("charges", "total_charge")(predictions, batch)
    expected = charge[:, None] * shift if name == "dipole_of_positions" else torch.zeros(4, 3).double()
    torch.testing.assert_close(part(predictions, moved) - part(predictions, batch), expected, **EXACT)


def test_all_origins_are_the_same_for_neutral_molecules():
    batch = batch_of((4, 2))
    predictions = {"charges": torch.tensor([1.0, -2, 0.5, 0.5, -1, 1], dtype=torch.float64)}
    dipoles = [DipoleFromCharges(center)(predictions, batch) for center in ("positions", "mass", "none")]
    torch.testing.assert_close(dipoles[0], dipoles[2], **EXACT)
    torch.testing.assert_close(dipoles[1], dipoles[2], **EXACT)


def test_an_unknown_center_gets_the_nearest():
    with pytest.raises(ValueError, match="Unknown center 'masses'; did you mean 'mass'"):
        DipoleFromCharges("masses")


# ---- sums ----


def test_coefficients_of_one_are_the_sum():
    batch = batch_of()
    batch["c"] = torch.ones(11)
    found = Combination("charges", "c", "total_charge")(predicted(batch), batch)
    assert torch.equal(found, SumOverAtoms("charges", "total_charge")(predicted(batch), batch))


def test_a_property_of_ones_own():
    own = Property("x::atom", rows="atom", shape=(2,))
    total = {"name": "x::total", "shape": (2,), "extensive": True}
    for part in (SumOverAtoms(own, total), Combination(own, "atomic_energy_coefficients", total)):
        assert part.property == "x::total" and part.required == {"x::atom": own}
        assert part({"x::atom": torch.ones(11, 2)}, batch_of()).shape == (4, 2)


@pytest.mark.parametrize("kind", [SumOverAtoms, Combination])
@pytest.mark.parametrize(
    ("atomic", "total"), [("forces", "energy"), ("energy", "energy"), ("charges", "spins")]
)
def test_only_atoms_add_up_to_structures(kind, atomic, total):
    with pytest.raises(ValueError, match=f"'{total}' .* is no sum over atoms of '{atomic}'"):
        kind(property=atomic, total=total)

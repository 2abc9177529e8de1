"""Forces and stress are derivatives of the energy, computed once and only when asked for."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from ase import Atoms
from torch import nn

from pesloss.losses.pairs import product_of_blocks
from pesloss.models.contract import check_potential
from pesloss.models.geometry import volume
from pesloss.models.painn import PaiNN
from pesloss.models.potential import Potential
from tests.structures import structures, to_batch

ALL = ("energy", "forces", "stress", "virial")
KEYS = ("positions", "numbers", "cell", "ptr", "batch", "edge_index", "edge_shift")


def small_potential(**options):
    torch.manual_seed(0)
    return Potential(PaiNN(**{"channels": 4, "layers": 2, "cutoff": 3.5, "radial": 6, **options})).double()


@pytest.fixture
def potential():
    return small_potential()


@pytest.fixture
def calls(monkeypatch):
    """Arguments of each call of autograd."""
    found = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: found.append(a) or original(*a, **k))
    return found


def parameter_gradients(predict, potential, batch, properties):
    predictions = predict(batch, properties)
    loss = sum((k + 1) * value.square().sum() for k, value in enumerate(predictions.values()))
    return predictions, torch.autograd.grad(loss, list(potential.parameters()), allow_unused=True)


def test_keeps_the_contract(potential):
    check_potential(potential, structures(), to_batch, ALL, parameters=potential.parameters())


def test_energy_alone_differentiates_nothing(potential, calls):
    assert set(potential(to_batch(structures()), ("energy",))) == {"energy"}
    assert not calls


def test_all_derivatives_come_from_one_call(potential, calls):
    assert set(potential(to_batch(structures()), ALL)) == set(ALL)
    assert [len(variables) for _, variables in calls] == [2]


@pytest.mark.parametrize("asked", [("forces",), ("stress",), ("virial", "energy"), ("forces", "stress")])
def test_only_what_is_asked_for_is_computed(potential, calls, asked):
    batch = to_batch(structures())
    some, everything = potential(batch, asked), potential(batch, ALL)
    assert tuple(some) == asked
    for name in asked:
        torch.testing.assert_close(some[name], everything[name], rtol=0, atol=1e-14)
    assert len(calls[0][1]) == ("forces" in asked) + bool({"stress", "virial"} & set(asked))


def test_batch_needs_seven_entries_and_keeps_them(potential):
    batch = {key: value for key, value in to_batch(structures()).items() if key in KEYS}
    before = {key: value.clone() for key, value in batch.items()}
    potential(batch, ALL)
    for key, value in batch.items():
        assert torch.equal(value, before[key])
        assert not value.requires_grad


def test_unknown_property_is_named(potential):
    with pytest.raises(ValueError, match="property 'force'; did you mean 'forces'"):
        potential(to_batch(structures()), ("force",))


def test_inference_mode_is_refused(potential):
    batch = to_batch(structures())
    with torch.inference_mode():
        assert set(potential(batch, ("energy",))) == {"energy"}
        with pytest.raises(RuntimeError, match=r"use torch\.no_grad\(\)"):
            potential(batch, ("forces",))


def test_network_without_energy_is_refused():
    with pytest.raises(TypeError, match=r"Linear has \[\]"):
        Potential(nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"PaiNN has \['charges'\]"):
        Potential(PaiNN(4, 1, heads=("charges",)))


@pytest.mark.parametrize("asked", [("energy",), ALL])
def test_predictions_carry_a_graph_in_training_only(potential, asked):
    batch = to_batch(structures())
    attached = potential(batch, asked)
    with torch.no_grad():
        switched_off = potential(batch, asked)
    potential.eval()
    evaluated, asked_for = potential(batch, asked), potential(batch, asked, training=True)
    for name in asked:
        assert attached[name].requires_grad and asked_for[name].requires_grad
        assert not switched_off[name].requires_grad and not evaluated[name].requires_grad
        torch.testing.assert_close(evaluated[name], attached[name].detach(), rtol=0, atol=1e-14)
        torch.testing.assert_close(switched_off[name], attached[name].detach(), rtol=0, atol=1e-14)


def test_stress_is_symmetric_and_minus_the_virial_per_volume(potential):
    batch = to_batch(structures()[1:3])
    found = potential(batch, ALL)
    torch.testing.assert_close(found["stress"], found["stress"].mT, rtol=0, atol=0)
    torch.testing.assert_close(found["virial"], -found["stress"] * volume(batch["cell"])[:, None, None])


def test_molecule_has_a_virial_and_no_stress(potential):
    found, gradients = parameter_gradients(potential, potential, to_batch(structures()[:1]), ALL)
    assert found["stress"].abs().max() == 0
    assert found["virial"].abs().max() > 1e-6
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_stress_of_a_mixed_batch_is_that_of_each(potential):
    batch, crystal = to_batch(structures()), to_batch(structures()[1:2])
    torch.testing.assert_close(
        potential(batch, ("stress",))["stress"][1:2], potential(crystal, ("stress",))["stress"]
    )


def test_forces_of_atoms_without_neighbours_are_zero(potential):
    found, gradients = parameter_gradients(potential, potential, to_batch([Atoms("H"), Atoms("O")]), ALL)
    assert found["forces"].abs().max() == 0
    assert found["virial"].abs().max() == 0
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


def test_empty_batch_has_empty_predictions(potential):
    found, gradients = parameter_gradients(potential, potential, to_batch([]), ALL)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "energy": (0,), "forces": (0, 3), "stress": (0, 3, 3), "virial": (0, 3, 3),
    }  # fmt: skip
    assert all(gradient is None or gradient.abs().max() == 0 for gradient in gradients)


def test_forces_can_be_differentiated_to_a_symmetric_hessian(potential):
    batch = to_batch(structures()[:1])
    positions = batch["positions"].requires_grad_()
    forces = potential(batch, ("forces",))["forces"]
    rows = [
        torch.autograd.grad(force, positions, retain_graph=True)[0].flatten() for force in forces.flatten()
    ]
    hessian = torch.stack(rows)
    assert hessian.abs().max() > 1e-6
    torch.testing.assert_close(hessian, hessian.T, rtol=0, atol=1e-12)


def hessian_by_differences(potential, one, step=1e-4):
    """Blocks of pairs of atoms, from central differences of the forces."""
    positions, rows = one["positions"], []
    for component in range(positions.numel()):
        moved = [positions.clone() for _ in range(2)]
        for copy, sign in zip(moved, (1, -1), strict=True):
            copy.view(-1)[component] += sign * step
        plus, minus = (potential({**one, "positions": copy}, ("forces",))["forces"] for copy in moved)
        rows.append((minus - plus).detach() / (2 * step))
    size = len(positions)
    return torch.stack(rows).view(size, 3, size, 3).transpose(1, 2).reshape(-1, 3, 3)


def test_the_hessian_is_the_slope_of_the_forces(potential):
    batch = to_batch(structures())
    hessian = potential(batch, ("hessian",))["hessian"]
    expected = [hessian_by_differences(potential, to_batch([one])) for one in structures()]
    assert hessian.abs().max() > 1e-4
    torch.testing.assert_close(hessian, torch.cat(expected), rtol=0, atol=1e-8)


@pytest.mark.parametrize("directions", [(), (2,)])
def test_products_are_those_of_the_hessian(potential, directions):
    batch = to_batch(structures())
    generator = torch.Generator().manual_seed(0)
    shape = (*batch["positions"].shape, *directions)
    batch["hessian_direction"] = torch.randn(shape, generator=generator, dtype=torch.float64)
    found = potential(batch, ("hessian_product", "hessian", "forces"))
    assert tuple(found) == ("hessian_product", "hessian", "forces")
    expected = product_of_blocks(found["hessian"], batch["hessian_direction"], batch)
    torch.testing.assert_close(found["hessian_product"], expected, rtol=0, atol=1e-12)


def test_losses_of_second_derivatives_have_gradients(potential):
    """Along a random direction of the parameters, against differences."""
    batch = to_batch(structures()[:1])
    batch["hessian_direction"] = torch.ones_like(batch["positions"])

    def loss():
        found = potential(batch, ("hessian", "hessian_product"))
        return found["hessian"].square().sum() + found["hessian_product"].sin().sum()

    parameters = list(potential.parameters())
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    torch.manual_seed(1)
    direction, step, slope = [torch.randn_like(p) for p in parameters], 1e-5, 0.0
    for g, d in zip(gradients, direction, strict=True):
        slope += 0.0 if g is None else (g * d).sum()
    totals = []
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * step * d
        totals.append(loss().detach())
    torch.testing.assert_close((totals[0] - totals[1]) / (2 * step), slope, rtol=1e-5, atol=1e-8)


def test_second_derivatives_do_not_change_the_first(potential):
    batch = to_batch(structures())
    batch["hessian_direction"] = batch["positions"]
    found = potential(batch, (*ALL, "hessian_product"))
    for name, value in potential(batch, ALL).items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-14)


def test_second_derivatives_of_evaluation_are_detached(potential):
    batch = to_batch(structures()[:1])
    batch["hessian_direction"] = batch["positions"]
    expected = potential(batch, ("hessian", "hessian_product"))
    found = potential.eval()(batch, ("hessian", "hessian_product"))
    torch.testing.assert_close(found, {name: value.detach() for name, value in expected.items()})
    assert not any(value.requires_grad for value in found.values())


def test_atoms_that_feel_nothing_have_no_hessian(potential):
    batch = to_batch([Atoms("H"), Atoms("O")])
    batch["hessian_direction"] = torch.ones_like(batch["positions"])
    found, gradients = parameter_gradients(potential, potential, batch, ("hessian", "hessian_product"))
    assert found["hessian"].shape == (2, 3, 3) and found["hessian"].abs().max() == 0
    assert found["hessian_product"].abs().max() == 0
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


def test_an_empty_batch_has_an_empty_hessian(potential):
    batch = to_batch([])
    batch["hessian_direction"] = torch.zeros(0, 3, 2, dtype=torch.float64)
    found, _ = parameter_gradients(potential, potential, batch, ("hessian", "hessian_product"))
    assert found["hessian"].shape == (0, 3, 3) and found["hessian_product"].shape == (0, 3, 2)


def test_a_product_needs_a_direction(potential):
    with pytest.raises(KeyError, match=r"'hessian_direction' \[atoms, 3\]"):
        potential(to_batch(structures()), ("hessian_product",))


def test_accumulated_gradients_are_those_of_the_whole_batch(potential):
    def gradients(parts):
        potential.zero_grad()
        for part in parts:
            potential(to_batch(part), ("forces",))["forces"].square().sum().backward()
        return [p.grad for p in potential.parameters() if p.grad is not None]

    whole, split = gradients([structures()]), gradients([structures()[:2], structures()[2:]])
    torch.testing.assert_close(whole, split, rtol=0, atol=1e-12)


def keep_machine_code(folder):
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Call a function in a process without type checks, which draw random numbers and cannot be compiled."""
    folder = str(tmp_path_factory.mktemp("inductor"))
    with ProcessPoolExecutor(1, get_context("spawn"), keep_machine_code, (folder,)) as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


def compiled_is_eager(properties, backend, batches, **options):
    torch._dynamo.reset()
    potential = small_potential(**options)
    compiled = torch.compile(potential, dynamic=True, fullgraph=True, backend=backend)
    for batch in batches:
        values, gradients = parameter_gradients(potential, potential, batch, properties)
        found, found_gradients = parameter_gradients(compiled, potential, batch, properties)
        torch.testing.assert_close(found, values, rtol=0, atol=1e-12)
        for a, b in zip(found_gradients, gradients, strict=True):
            assert (a is None) == (b is None)
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def one_graph_for_all_sizes():
    compiled = torch.compile(small_potential(), dynamic=True, fullgraph=True, backend="aot_eager")
    compiled(to_batch(structures()), ALL)
    with torch.compiler.set_stance("fail_on_recompile"):
        for some in (structures()[:2], structures()[1:], structures() * 3):
            compiled(to_batch(some), ALL)


def compiled_hessian_is_refused():
    """What is said; the error itself cannot leave the process."""
    compiled = torch.compile(small_potential(), dynamic=True, fullgraph=True, backend="eager")
    try:
        return str(compiled(to_batch(structures()), ("hessian",)))
    except Exception as error:
        return str(error)


def compiled_evaluation_is_detached():
    potential, batch = small_potential().eval(), to_batch(structures())
    compiled = torch.compile(potential, dynamic=True, fullgraph=True, backend="aot_eager")
    found = compiled(batch, ALL)
    torch.testing.assert_close(found, potential(batch, ALL), rtol=0, atol=1e-12)
    assert not any(value.requires_grad for value in found.values())


@pytest.mark.parametrize("properties", [("energy",), ALL])
def test_whole_prediction_compiles_as_one_graph(fresh, properties):
    fresh(compiled_is_eager, properties, "aot_eager", [to_batch(structures()), to_batch(structures()[1:])])


def test_another_batch_size_needs_no_other_graph(fresh):
    fresh(one_graph_for_all_sizes)


def test_compiled_hessian_is_refused(fresh):
    assert "A compiled Potential has no second derivatives" in fresh(compiled_hessian_is_refused)


def test_compiled_evaluation_is_detached(fresh):
    fresh(compiled_evaluation_is_detached)


def test_stacked_copies_are_trained_together(potential):
    """One vmap of the network over stacked parameters and one outer autograd equal separate models."""
    copies = [PaiNN(channels=4, layers=2, cutoff=3.5, radial=6).double() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(copies)
    batch = to_batch(structures())
    positions = batch["positions"].expand(3, -1, -1).clone().requires_grad_()

    def energies(parameters, buffers, positions):
        moved = {**batch, "positions": positions}
        return torch.func.functional_call(potential.network, (parameters, buffers), (moved,))["energy"]

    energy = torch.vmap(energies)(parameters, buffers, positions)
    forces = -torch.autograd.grad(energy.sum(), positions, create_graph=True)[0]
    (energy.square().sum() + forces.square().sum()).backward()
    for k, copy in enumerate(copies):
        found = Potential(copy)(batch, ("energy", "forces"))
        torch.testing.assert_close(found["energy"], energy[k], rtol=0, atol=1e-12)
        torch.testing.assert_close(found["forces"], forces[k], rtol=0, atol=1e-12)
        (found["energy"].square().sum() + found["forces"].square().sum()).backward()
        for name, parameter in copy.named_parameters():
            torch.testing.assert_close(parameters[name].grad[k], parameter.grad, rtol=0, atol=1e-12)

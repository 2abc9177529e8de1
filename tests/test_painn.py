"""PaiNN is the network of the paper, and a potential energy surface."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms

from pesloss.models.contract import check_potential
from pesloss.models.heads import HEADS
from pesloss.models.painn import Message, PaiNN, Update
from pesloss.models.potential import SECOND, Potential
from pesloss.models.radial import RadialBasis
from tests.structures import CUTOFF, structures, to_batch


def network(heads=("energy",), **options):
    torch.manual_seed(0)
    return PaiNN(
        **{"channels": 4, "layers": 2, "cutoff": CUTOFF, "radial": 6, "heads": heads, **options}
    ).double()


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("heads", [tuple(HEADS), ("energy", "dipole"), ("energy", "charges"), ("energy",)])
@pytest.mark.parametrize("layers", [1, 3])
def test_keeps_the_contract(heads, layers):
    potential = Potential(network(heads, layers=layers))
    names = [name for name in potential.properties if name not in SECOND]
    check_potential(potential, structures(), to_batch, names, parameters=potential.parameters())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("layers", [1, 2])
def test_every_parameter_serves_a_head(head, layers):
    model = network((head,), layers=layers)
    model(to_batch(structures()))[head].square().sum().backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused


def test_message_is_the_paper_s_sum_over_neighbours():
    torch.manual_seed(0)
    atoms, channels, edges = 5, 3, torch.tensor([[0, 0, 1, 4, 2], [1, 2, 0, 0, 2]])
    message = Message(channels, radial=4).double()
    scalars, vectors = random(atoms, channels), random(atoms, 3, channels)
    basis, directions = random(5, 4), random(5, 3, 1)
    found_scalars, found_vectors = message(scalars, vectors, basis, directions, edges)
    expected_scalars, expected_vectors = scalars.clone(), vectors.clone()
    for k, (i, j) in enumerate(edges.T.tolist()):
        s, vs, vv = (message.phi(scalars[j]) * message.filters(basis[k])).split(channels)
        expected_scalars[i] += s
        expected_vectors[i] += vectors[j] * vv + vs * directions[k]
    torch.testing.assert_close(found_scalars, expected_scalars)
    torch.testing.assert_close(found_vectors, expected_vectors)


def test_update_is_the_paper_s_equation():
    torch.manual_seed(0)
    channels = 3
    update = Update(channels).double()
    scalars, vectors = random(4, channels), random(4, 3, channels)
    found_scalars, found_vectors = update(scalars, vectors)
    for i in range(4):
        u, v = (vectors[i] @ weight.T for weight in update.mix.weight.split(channels))
        ss, sv, vv = update.a(torch.cat([scalars[i], (v.square().sum(0) + 1e-6).sqrt()])).split(channels)
        torch.testing.assert_close(found_scalars[i], scalars[i] + ss + sv * (u * v).sum(0))
        torch.testing.assert_close(found_vectors[i], vectors[i] + vv * u)


def test_radial_basis_is_a_faded_sine():
    distance = torch.linspace(0.5, 4.9, 20, dtype=torch.float64)
    basis = RadialBasis(cutoff=5.0, radial=3).double()
    fade = 0.5 * (torch.cos(torch.pi * distance / 5.0) + 1.0)
    columns = [torch.sin(n * torch.pi * distance / 5.0) / distance * fade for n in (1, 2, 3)]
    torch.testing.assert_close(basis(distance), torch.stack([*columns, fade], dim=1), rtol=0, atol=1e-6)


def test_radial_basis_and_its_slope_vanish_at_the_cutoff():
    distance = torch.tensor([5.0, 5.1, 9.0], dtype=torch.float64, requires_grad=True)
    basis = RadialBasis(cutoff=5.0, radial=3).double()(distance)
    assert basis.abs().max() < 1e-12
    slope = torch.autograd.grad(basis.sum(), distance)[0]
    assert slope.abs().max() < 1e-6


def test_edges_beyond_the_cutoff_change_nothing():
    potential = Potential(network())
    near, far = (to_batch(structures(), cutoff) for cutoff in (CUTOFF, CUTOFF + 1.5))
    assert far["edge_index"].shape[1] > near["edge_index"].shape[1]
    for name, value in potential(near, ("energy", "forces", "stress")).items():
        torch.testing.assert_close(potential(far, (name,))[name], value, rtol=0, atol=1e-12)


def test_forces_are_continuous_where_an_atom_leaves_the_cutoff():
    potential = Potential(network())
    pairs = [Atoms("HO", positions=[[0, 0, 0], [0, 0, CUTOFF + d]]) for d in (-1e-6, 1e-6)]
    forces = potential(to_batch(pairs, CUTOFF + 1), ("forces",))["forces"]
    assert forces.abs().max() < 1e-6


def test_charges_are_neutral():
    batch = to_batch(structures())
    charges = network(("energy", "charges"))(batch)["charges"]
    sums = charges.new_zeros(len(structures())).index_add(0, batch["batch"], charges)
    assert charges.abs().max() > 1e-4
    assert sums.abs().max() < 1e-14


def test_dipole_of_charges_is_that_of_the_dipole():
    batch = to_batch(structures())
    both, alone = network(("charges", "dipole")), network(("dipole",))
    alone.load_state_dict(both.state_dict())
    torch.testing.assert_close(alone(batch)["dipole"], both(batch)["dipole"])
    with torch.no_grad():
        both.heads["dipole"].blocks[1].gate[2].weight.zero_()
        both.heads["dipole"].blocks[1].gate[2].bias.zero_()
    found = both(batch)
    expected = torch.zeros(4, 3, dtype=torch.float64).index_add(
        0, batch["batch"], found["charges"][:, None] * batch["positions"]
    )
    torch.testing.assert_close(found["dipole"], expected)


def test_polarizability_is_symmetric():
    alpha = network(("polarizability",))(to_batch(structures()))["polarizability"]
    torch.testing.assert_close(alpha, alpha.mT, rtol=0, atol=0)
    assert (alpha[0] - alpha[0].trace() / 3 * torch.eye(3)).abs().max() > 1e-6


def test_only_the_asked_for_head_is_computed():
    model = network(tuple(HEADS))
    batch = to_batch(structures())
    everything = model(batch)
    assert tuple(everything) == tuple(HEADS)
    for name in HEADS:
        (found,) = model(batch, (name,)).items()
        assert found[0] == name
        assert torch.equal(found[1], everything[name])


def test_scale_is_the_unit_of_energies_and_is_saved():
    model, batch = network(), to_batch(structures())
    before = Potential(model)(batch, ("energy", "forces"))
    model.set_scale(2.5)
    restored = network()
    restored.load_state_dict(model.state_dict())
    for name, value in Potential(restored)(batch, ("energy", "forces")).items():
        torch.testing.assert_close(value, 2.5 * before[name])


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="energy_scale must be positive and finite"):
        network().set_scale(scale)


def test_fresh_energies_are_near_zero():
    torch.manual_seed(0)
    model = PaiNN().double()
    energy = model(to_batch(structures(), 5.0))["energy"]
    assert (energy / to_batch(structures())["ptr"].diff()).abs().max() < 1.0


def test_single_precision_is_that_of_double():
    model, batch = network(tuple(HEADS)), to_batch(structures())
    exact = Potential(model)(batch, ("energy", "forces", "stress", "dipole"), training=False)
    single = Potential(model.float())(
        to_batch(structures(), dtype=torch.float32), tuple(exact), training=False
    )
    for name, value in single.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), exact[name], rtol=1e-4, atol=1e-5)


def test_default_dtype_means_nothing_after_construction():
    potential, batch = Potential(network(tuple(HEADS))), to_batch(structures())
    names = [name for name in potential.properties if name != "hessian_product"]
    before = potential(batch, names)
    torch.set_default_dtype(torch.float64)
    try:
        after = potential(batch, names)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in before.items():
        assert value.dtype == after[name].dtype == torch.float64
        assert torch.equal(value, after[name])


def test_learns_another_surface():
    """A second network's forces are learned to a tenth of their size squared."""
    teacher, batch = Potential(network()), to_batch(structures())
    label = teacher(batch, ("forces",), training=False)["forces"]
    torch.manual_seed(1)
    potential = Potential(PaiNN(channels=8, layers=2, cutoff=CUTOFF, radial=6)).double()
    potential.network.set_scale(label.square().mean().sqrt().item())
    optimizer = torch.optim.Adam(potential.parameters(), lr=1e-2)

    def step():
        loss = (potential(batch, ("forces",))["forces"] - label).square().mean() / label.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    assert min(step() for _ in range(150)) < 0.1


def test_unknown_head_is_named():
    with pytest.raises(ValueError, match="head 'dipol'; did you mean 'dipole'"):
        PaiNN(heads=("energy", "dipol"))


@pytest.mark.parametrize("options", [{"channels": 0}, {"layers": 0}, {"max_number": 0}, {"heads": ()}])
def test_sizes_must_be_positive(options):
    with pytest.raises(ValueError, match="at least one channel, layer, element and head"):
        PaiNN(**options)


@pytest.mark.parametrize("options", [{"cutoff": 0.0}, {"cutoff": float("nan")}, {"radial": 0}])
def test_basis_must_exist(options):
    with pytest.raises(ValueError, match="cutoff > 0 Å and radial >= 1"):
        PaiNN(**options)

"""Penalties of what a force field must not do: curl, and a preferred direction in space."""

import pytest
import torch

from pesloss.losses import L2Norm, Property, TotalLoss
from pesloss.losses.terms.conservative import (
    CurlPenalty,
    EquivariancePenalty,
    RotationPenalty,
    random_rotations,
)
from tests.batches import make, take
from tests.fields import Field, jacobian
from tests.laws import EXACT, assert_same

DIRECT = Property("direct_forces", rows="atom", shape=(3,), unit="eV/Å")
DEALS = [[[0, 1, 2, 3], [4, 5, 6, 7]], [[7, 2, 3], [], [0, 1, 4, 5, 6]]]


def batch_of(sizes=(2, 3, 1), **options):
    return {**make(sizes, **options), "pbc": torch.zeros(len(sizes), 3, dtype=torch.bool)}


def loss_of(term):
    return TotalLoss({"term": term})


def total_and_gradients(loss, batch, field, step=None):
    prepared = loss.prepare(batch)
    total = loss(field(prepared), prepared, step)
    found = torch.autograd.grad(total, list(field.parameters()), allow_unused=True)
    zeros = [torch.zeros_like(parameter) for parameter in field.parameters()]
    return [total.detach(), *(z if g is None else g for g, z in zip(found, zeros, strict=True))]


def curls(batch, field, name="direct_forces"):
    """‖J − Jᵀ‖² of each structure over its number of components, from the whole Jacobian."""
    whole = jacobian(batch, field, name)
    parts = zip(batch["ptr"][:-1].tolist(), batch["ptr"][1:].tolist(), strict=True)
    blocks = [whole[3 * a : 3 * b, 3 * a : 3 * b] for a, b in parts]
    return torch.stack([(block - block.T).square().sum() / len(block) for block in blocks])


def mean_over_steps(loss, batch, field, steps):
    values = []
    for _ in range(steps):
        values.append(total_and_gradients(loss, batch, field)[0])
        loss.advance()
    values = torch.stack(values)
    return values.mean(), values.std() / steps**0.5


def test_the_curl_is_that_of_the_whole_jacobian_on_average():
    batch, field = batch_of(weights=False), Field()
    mean, error = mean_over_steps(loss_of(CurlPenalty(DIRECT)), batch, field, 400)
    expected = curls(batch, field).mean()
    assert (mean - expected).abs() < 4 * error and error < 0.1 * expected


def test_one_direction_is_one_row_of_the_jacobian():
    """With random signs v: (J − Jᵀ)v, component by component."""
    batch, field, term = batch_of(weights=False), Field(), CurlPenalty(DIRECT)
    prepared = term.prepare(batch)
    whole = jacobian(batch, field, "direct_forces")
    v = term.draws.signs(batch, "atom", 3).flatten()
    found = term.prediction(field(prepared), prepared)
    torch.testing.assert_close(found.flatten().detach(), (whole - whole.T) @ v, **EXACT)


def test_derivatives_of_an_energy_have_no_curl():
    total, *gradients = total_and_gradients(loss_of(CurlPenalty("forces")), batch_of(), Field())
    assert total < 1e-20 and all(gradient.abs().max() < 1e-10 for gradient in gradients)


def test_a_field_can_lose_its_curl():
    batch, field, loss = batch_of(weights=False), Field(), loss_of(CurlPenalty(DIRECT))
    optimizer = torch.optim.Adam([field.mix], lr=0.05)
    before = curls(batch, field).mean()
    for _ in range(60):
        prepared = loss.prepare(batch)
        optimizer.zero_grad()
        loss(field(prepared), prepared).backward()
        optimizer.step()
        loss.advance()
    assert curls(batch, field).mean() < 0.05 * before


def test_the_gradient_of_the_curl_is_its_slope():
    batch, field, loss = batch_of((2, 2)), Field(), loss_of(CurlPenalty(DIRECT))
    gradient = total_and_gradients(loss, batch, field)[1]
    step, slopes = 1e-6, []
    for place in range(9):
        totals = []
        for sign in (1, -1):
            moved = Field()
            moved.mix.data.view(-1)[place] += sign * step
            totals.append(total_and_gradients(loss, batch, moved)[0])
        slopes.append((totals[0] - totals[1]) / (2 * step))
    torch.testing.assert_close(gradient.flatten(), torch.stack(slopes), rtol=1e-6, atol=1e-8)


def test_a_pair_of_components_is_one_entry_of_the_jacobian():
    batch, field = batch_of((3,), weights=False), Field()
    whole = jacobian(batch, field, "direct_forces")
    for a, b in [(0, 4), (7, 2), (3, 3)]:
        term = CurlPenalty(DIRECT, pair=(a, b), reduction="mean")
        found = total_and_gradients(loss_of(term), batch, field)[0]
        torch.testing.assert_close(found, (whole[a, b] - whole[b, a]) ** 2, **EXACT)


MADE = {
    "curl": lambda: CurlPenalty(DIRECT, seed=3),
    "curl of all atoms": lambda: CurlPenalty(DIRECT, reduction="mean", penalty="absolute"),
    "rotation": RotationPenalty,
    "rotation of forces": lambda: RotationPenalty(DIRECT),
    "equivariance": lambda: EquivariancePenalty(DIRECT),
    "equivariance of energies": lambda: EquivariancePenalty("energy", penalty="absolute"),
}


def made(name, field):
    loss = loss_of(MADE[name]())
    loss.attach(field)
    return loss


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("deal", DEALS)
def test_accumulated_batches_are_one_batch(name, deal):
    """The random numbers of a structure too."""
    batch, field = batch_of((1, 3, 5, 2, 7, 1, 4, 2)), Field(broken=True)
    loss, parts = made(name, field), [take(batch, part) for part in deal]
    whole = total_and_gradients(loss, batch, field)
    step = loss.step([loss.prepare(part) for part in parts])
    shares = [total_and_gradients(loss, part, field, step) for part in parts]
    assert whole[0] > 0
    assert_same([sum(values) for values in zip(*shares, strict=True)], whole)


@pytest.mark.parametrize("name", MADE)
def test_a_structure_of_weight_zero_might_as_well_be_gone(name):
    batch, field = batch_of((3, 2, 4)), Field(broken=True)
    batch["weight"][1] = 0
    loss = made(name, field)
    gone = total_and_gradients(loss, take(batch, [0, 2]), field)
    assert_same(total_and_gradients(loss, batch, field), gone)


@pytest.mark.parametrize("name", MADE)
def test_an_empty_batch_is_a_connected_zero(name):
    field = Field(broken=True)
    found = total_and_gradients(made(name, field), take(batch_of(), []), field)
    assert all(bool((value == 0).all()) for value in found)


@pytest.mark.parametrize("name", MADE)
def test_a_step_that_is_over_moves_the_draws_and_is_saved(name):
    batch, field = batch_of(), Field(broken=True)
    loss, resumed = made(name, field), made(name, field)
    first = total_and_gradients(loss, batch, field)[0]
    assert total_and_gradients(loss, batch, field)[0] == first
    loss.advance()
    second = total_and_gradients(loss, batch, field)[0]
    assert second != first or "rotation" in name
    resumed.load_state_dict(loss.state_dict())
    assert total_and_gradients(resumed, batch, field)[0] == second


@pytest.mark.parametrize("name", MADE)
def test_a_formula_says_what_vanishes(name):
    term = MADE[name]()
    assert term.term.property.name in term.formula() and not term.labels


def turned(batch, vector):
    """Atoms and cells turned by the matrix exponential of a rotation vector."""
    zero = vector.new_zeros(())
    x, y, z = vector.unbind()
    generator = torch.stack(
        [torch.stack([zero, -z, y]), torch.stack([z, zero, -x]), torch.stack([-y, x, zero])]
    )
    rotation = torch.linalg.matrix_exp(generator)
    return {**batch, "positions": batch["positions"] @ rotation.T, "cell": batch["cell"] @ rotation.T}


def torques(batch, field):
    """Derivative of each energy by a rotation vector at zero."""
    zero = torch.zeros(3, dtype=torch.float64)
    return torch.autograd.functional.jacobian(lambda w: field(turned(batch, w))["energy"], zero)


def test_the_rotation_penalty_is_the_length_of_the_derivative_by_rotations():
    batch, field = batch_of(weights=False), Field(broken=True)
    found = total_and_gradients(loss_of(RotationPenalty()), batch, field)[0]
    torch.testing.assert_close(found, torques(batch, field).norm(dim=1).mean(), **EXACT)


def test_an_invariant_energy_and_its_forces_have_no_torque():
    for term in (RotationPenalty(), RotationPenalty("forces"), EquivariancePenalty("energy")):
        field, loss = Field(), loss_of(term)
        loss.attach(field)
        assert total_and_gradients(loss, batch_of(), field)[0] < 1e-12


def test_of_a_molecule_forces_say_the_same_as_the_energy():
    batch, field = batch_of(weights=False), Field(broken=True)
    batch["cell"] = torch.zeros_like(batch["cell"])
    of_energy = total_and_gradients(loss_of(RotationPenalty()), batch, field)
    assert of_energy[0] > 0.1
    assert_same(total_and_gradients(loss_of(RotationPenalty("forces")), batch, field), of_energy)


def test_forces_of_a_crystal_say_nothing_of_its_torque():
    batch, field = batch_of(), Field(broken=True)
    batch["pbc"][1, 2] = True
    loss = loss_of(RotationPenalty("forces"))
    expected = total_and_gradients(loss, take(batch, [0, 2]), field)
    assert_same(total_and_gradients(loss, batch, field), expected)


def test_rotations_are_rotations_and_point_everywhere():
    rotations = random_rotations(
        torch.randn(4000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    unit = torch.eye(3, dtype=torch.float64).expand_as(rotations)
    torch.testing.assert_close(rotations @ rotations.mT, unit, **EXACT)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(4000, dtype=torch.float64), **EXACT)
    assert rotations.mean(0).abs().max() < 0.05
    # the mean of (tr R)² over all rotations is 1
    assert (rotations.diagonal(dim1=1, dim2=2).sum(1).square().mean() - 1).abs() < 0.1


@pytest.mark.parametrize("name", ["energy", "forces", "direct_forces"])
def test_the_equivariance_error_is_that_of_a_turned_copy(name):
    prop = DIRECT if name == "direct_forces" else name
    batch, field, term = batch_of(weights=False), Field(broken=True), EquivariancePenalty(prop)
    loss = loss_of(term)
    loss.attach(field)
    errors = []
    for i in range(3):
        one = take(batch, [i])
        rotation = random_rotations(term.draws.normal(one, "structure", 4))[0]
        copy = {**one, "positions": one["positions"] @ rotation.T, "cell": one["cell"] @ rotation.T}
        before, after = field(one)[name], field(copy)[name]
        errors.append((after - (before if before.dim() == 1 else before @ rotation.T)).flatten())
    expected = torch.cat(errors).square().mean()
    assert expected > 1e-3
    torch.testing.assert_close(
        total_and_gradients(loss, batch, field)[0], expected.detach(), rtol=1e-10, atol=1e-12
    )


def test_tensors_turn_on_both_sides():
    class Outer(Field):
        def forward(self, batch, properties=None):
            arms = batch["positions"] - batch["positions"].mean(0)
            return {"polarizability": self.scale * (arms.T @ arms)[None]}

    batch, field = batch_of((4,)), Outer()
    loss = loss_of(EquivariancePenalty("polarizability"))
    loss.attach(field)
    assert total_and_gradients(loss, batch, field)[0] < 1e-20


def test_neither_learns_the_attached_model_nor_saves_it():
    loss = loss_of(EquivariancePenalty(DIRECT))
    loss.attach(Field())
    assert not list(loss.parameters()) and set(loss.state_dict()) == {"terms.term.draws.step"}


def test_a_batch_that_was_not_prepared_is_refused():
    batch, field = batch_of(), Field()
    for term in (CurlPenalty(DIRECT), RotationPenalty()):
        with pytest.raises(RuntimeError, match=r"loss\.prepare\(batch\)"):
            loss_of(term)(field(batch), batch)


def test_a_model_has_to_be_attached():
    batch = batch_of()
    with pytest.raises(RuntimeError, match=r"loss\.attach\(model\)"):
        loss_of(EquivariancePenalty("energy"))(Field()(batch), batch)


@pytest.mark.parametrize(
    ("make_term", "sentence"),
    [
        (lambda: CurlPenalty("energy"), "'energy' has one row a structure"),
        (lambda: CurlPenalty("charges"), r"'charges' has one row a atom of shape \(\)"),
        (lambda: RotationPenalty("stress"), r"'stress' has one row a structure of shape \(3, 3\)"),
        (lambda: RotationPenalty("charges"), "'charges' has one row a atom"),
        (lambda: EquivariancePenalty("hessian"), "'hessian' has one row a pair"),
        (lambda: EquivariancePenalty("populations"), r"of shape \(2,\)"),
        (lambda: CurlPenalty("forces", penalty="hubr"), "did you mean 'huber'"),
    ],
)
def test_what_has_no_curl_and_cannot_be_turned_is_refused(make_term, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_term()


def test_a_norm_is_a_penalty_too():
    batch, field = batch_of(weights=False), Field()
    term = CurlPenalty(DIRECT, penalty=L2Norm(), reduction="mean")
    prepared = term.prepare(batch)
    expected = term.prediction(field(prepared), prepared).norm(dim=1).mean().detach()
    torch.testing.assert_close(total_and_gradients(loss_of(term), batch, field)[0], expected, **EXACT)

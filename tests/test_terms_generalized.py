"""Forces along generalised coordinates: projections, of prediction and label alike."""

import pytest
import torch

from pesloss.losses import Huber, TotalLoss
from pesloss.losses.terms.generalized import GeneralizedForcesTerm
from tests.batches import MISSING, make, take
from tests.laws import EXACT, HostSynchronisations, assert_same

COORDINATES = 4


def batch_of(**options):
    batch = make(**{"weights": False, "missing": False, **options})
    generator = torch.Generator().manual_seed(9)
    shape = (batch["positions"].shape[0], 3, COORDINATES)
    batch["drdq"] = torch.randn(shape, generator=generator, dtype=torch.float64)
    batch["drdq"][::3, :, 1] = 0
    return batch


def loss_of(**options):
    return TotalLoss({"term": GeneralizedForcesTerm(COORDINATES, **options)})


def total_and_gradient(loss, forces, batch, step=None):
    forces = forces.detach().requires_grad_()
    total = loss({"forces": forces}, batch, step)
    return [total.detach(), *torch.autograd.grad(total, [forces])]


def projected(values, batch):
    """Σ over the atoms of a structure, by loops."""
    found = torch.zeros(len(batch["ptr"]) - 1, COORDINATES, dtype=torch.float64)
    for atom, structure in enumerate(batch["batch"].tolist()):
        for g in range(COORDINATES):
            found[structure, g] += sum(batch["drdq"][atom, c, g] * values[atom, c] for c in range(3))
    return found


@pytest.mark.parametrize("penalty", ["squared", "absolute"])
@pytest.mark.parametrize("reduction", ["mean", "per_structure", "sum"])
def test_it_is_the_projected_residual(penalty, reduction):
    batch = batch_of()
    residual = projected(batch["x::forces"] - batch["forces"], batch)
    costs = residual.square() if penalty == "squared" else residual.abs()
    expected = costs.sum() if reduction == "sum" else costs.mean()
    found = total_and_gradient(loss_of(penalty=penalty, reduction=reduction), batch["x::forces"], batch)[0]
    torch.testing.assert_close(found, expected, **EXACT)


def test_the_gradient_is_the_jacobian_times_that_of_the_projection():
    batch = batch_of()
    residual = projected(batch["x::forces"] - batch["forces"], batch)
    pulled = torch.einsum("icg,ig->ic", batch["drdq"], 2 * residual[batch["batch"]] / residual.numel())
    assert_same(total_and_gradient(loss_of(), batch["x::forces"], batch)[1:], [pulled])


def test_along_cartesian_coordinates_it_is_a_loss_of_forces():
    batch = make((1, 1, 1), missing=False, weights=False)
    batch["drdq"] = torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
    loss = TotalLoss({"term": GeneralizedForcesTerm(3, penalty=Huber(0.3))})
    plain = TotalLoss({"forces": {"penalty": Huber(0.3)}})
    found = total_and_gradient(loss, batch["x::forces"], batch)
    assert_same(found, total_and_gradient(plain, batch["x::forces"], batch))


def test_a_missing_force_is_missing_in_the_coordinates_that_move_it():
    batch = batch_of()
    batch["forces"][3, 0] = MISSING  # atom 3: coordinate 1 does not move it
    structure = int(batch["batch"][3])
    residual = projected(torch.nan_to_num(batch["x::forces"] - batch["forces"]), batch)
    counts = torch.ones_like(residual, dtype=torch.bool)
    counts[structure, [0, 2, 3]] = False
    found = total_and_gradient(loss_of(), batch["x::forces"], batch)
    torch.testing.assert_close(found[0], residual[counts].square().mean(), **EXACT)
    assert loss_of().step([batch]).labels.tolist() == [int(counts.sum())]


def test_a_structure_without_a_jacobian_has_no_label():
    batch = batch_of()
    batch["drdq"][batch["batch"] == 2] = MISSING
    expected = batch_of()
    expected["forces"][batch["batch"] == 2] = MISSING
    found = total_and_gradient(loss_of(), batch["x::forces"], batch)
    assert_same(found, total_and_gradient(loss_of(), batch["x::forces"], expected))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e300])
def test_predictions_of_structures_without_labels_do_not_matter(garbage):
    batch = batch_of()
    rows = batch["batch"] == 2
    batch["forces"][rows] = MISSING
    spoilt = torch.where(rows[:, None], garbage, batch["x::forces"])
    expected = total_and_gradient(loss_of(), batch["x::forces"], batch)
    assert_same(total_and_gradient(loss_of(), spoilt, batch), expected)


@pytest.mark.parametrize("key", ["weight", "generalized_forces_weight"])
def test_weights_are_those_of_structures(key):
    batch, factors = batch_of(), torch.tensor([1, 2, 0, 3, 1, 0, 2, 1], dtype=torch.float64)
    residual = projected(batch["x::forces"] - batch["forces"], batch)
    expected = (factors[:, None] * residual.square()).sum() / (6 * COORDINATES)
    found = total_and_gradient(loss_of(), batch["x::forces"], {**batch, key: factors})[0]
    torch.testing.assert_close(found, expected, **EXACT)


def test_accumulated_batches_are_one_batch():
    batch = batch_of(missing=True, weights=True)
    loss, parts = loss_of(), [take(batch, part) for part in ([0, 1, 2, 3, 4], [], [5, 6, 7])]
    step = loss.step(parts)
    shares = [total_and_gradient(loss, part["x::forces"], part, step) for part in parts]
    whole = total_and_gradient(loss, batch["x::forces"], batch)
    assert_same([sum(share[0] for share in shares), torch.cat([share[1] for share in shares])], whole)


@pytest.mark.parametrize("kind", ["empty", "missing", "absent"])
def test_without_labels_it_is_a_connected_zero(kind):
    batch = batch_of()
    if kind == "empty":
        batch = take(batch, [])
    elif kind == "missing":
        batch["forces"][:] = MISSING
    else:
        del batch["forces"]
    total, gradient = total_and_gradient(loss_of(), batch["x::forces"], batch)
    assert total == 0 and bool((gradient == 0).all())


def test_nothing_waits_for_the_device():
    batch, loss = batch_of(), loss_of()
    with HostSynchronisations() as waiting:
        total_and_gradient(loss, batch["x::forces"], batch)
    assert not waiting.found


def test_it_says_what_is_compared():
    term = GeneralizedForcesTerm(2)
    assert "Σᵢ drdqᵢᵀ forcesᵢ" in term.formula() and term.unit() == "eV/Å"
    assert set(term.required) == set(term.labels) == {"forces"}


def test_the_batch_says_what_the_coordinates_move():
    batch = make()
    with pytest.raises(KeyError, match=r"No 'drdq' \[atoms, 3, coordinates\]"):
        loss_of()({"forces": batch["forces"]}, batch)


def test_the_number_of_coordinates_is_that_of_the_jacobian():
    batch = batch_of()
    with pytest.raises(ValueError, match="'generalized_forces' has shape"):
        TotalLoss({"term": GeneralizedForcesTerm(2)})({"forces": batch["x::forces"]}, batch)


@pytest.mark.parametrize("prop", ["energy", "stress", "charges"])
def test_only_forces_can_be_projected(prop):
    with pytest.raises(ValueError, match=f"'{prop}' has one row"):
        GeneralizedForcesTerm(2, prop)

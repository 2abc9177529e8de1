"""Products of a Hessian with random directions say on average what the whole Hessian says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from pesloss.data.reading.formats.deepmd import DeepMd
from pesloss.losses import PropertyTerm, TotalLoss
from pesloss.losses.pairs import atoms_of_pairs, product_of_blocks
from pesloss.losses.terms.hessian import HessianProductTerm
from pesloss.models import PaiNN, Potential
from tests.batches import MISSING, make, take
from tests.laws import EXACT, HostSynchronisations, assert_same
from tests.structures import to_batch

SIZES = (2, 3, 1)


def batch_of(sizes=SIZES, **options):
    """Labels of the Hessian, from which those of the products follow."""
    batch = make(sizes, **{"missing": False, "weights": False, **options})
    del batch["hessian_product"]
    return batch


def matrices(blocks, batch):
    """The Hessian of each structure as a matrix."""
    begin, found = 0, []
    for size in batch["ptr"].diff().tolist():
        part = blocks[begin : begin + size**2].reshape(size, size, 3, 3)
        found.append(part.permute(0, 2, 1, 3).reshape(3 * size, 3 * size))
        begin += size**2
    return found


def predicted(batch):
    """Products of the predicted Hessian with the directions of the batch."""
    return {"hessian_product": product_of_blocks(batch["x::hessian"], batch["hessian_direction"], batch)}


def total(loss, batch, step=None):
    prepared = loss.prepare(batch)
    return loss(predicted(prepared), prepared, step)


def test_pairs_are_counted_as_their_blocks_stand():
    batch = batch_of()
    first, second = atoms_of_pairs(batch, 14)
    assert first.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5]
    assert second.tolist() == [0, 1, 0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4, 5]


@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_a_product_of_blocks_is_one_of_matrices(shape):
    batch = batch_of()
    vectors = torch.randn(6, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = vectors.reshape(6, 3, -1).split(batch["ptr"].diff().tolist())
    pairs = zip(matrices(batch["hessian"], batch), parts, strict=True)
    expected = torch.cat([matrix @ part.flatten(0, 1) for matrix, part in pairs]).reshape(vectors.shape)
    torch.testing.assert_close(product_of_blocks(batch["hessian"], vectors, batch), expected, **EXACT)


def test_unit_vectors_together_are_the_whole_hessian():
    """The sum over 3N directions is 9N² times the mean squared entry: of one structure."""
    batch, loss = batch_of((3,)), TotalLoss({"term": HessianProductTerm(reduction="sum")})
    totals = [total(loss, {**batch, "hessian_direction": unit.view(3, 3)}) for unit in torch.eye(9).double()]
    whole = TotalLoss({"hessian": PropertyTerm("hessian", reduction="sum")})
    expected = whole({"hessian": batch["x::hessian"]}, batch)
    torch.testing.assert_close(sum(totals), expected, **EXACT)


@pytest.mark.parametrize("directions", [1, 4])
def test_random_signs_are_the_whole_hessian_on_average(directions):
    batch, loss = batch_of((3,)), TotalLoss({"term": HessianProductTerm(directions)})
    totals = []
    for _ in range(400):
        totals.append(total(loss, batch))
        loss.advance()
    found = torch.stack(totals)
    expected = (batch["x::hessian"] - batch["hessian"]).square().sum() / 9
    error = found.std() / len(found) ** 0.5
    assert (found.mean() - expected).abs() < 4 * error and error < 0.1 * expected


def test_several_directions_are_the_mean_of_each():
    batch, several = batch_of(), TotalLoss({"term": HessianProductTerm(3)})
    one = TotalLoss({"term": HessianProductTerm()})
    directions = several.prepare(batch)["hessian_direction"]
    totals = [total(one, {**batch, "hessian_direction": directions[..., i]}) for i in range(3)]
    torch.testing.assert_close(total(several, batch), sum(totals) / 3, **EXACT)


def test_accumulated_batches_are_one_batch():
    batch = batch_of((1, 3, 5, 2, 7, 1, 4, 2), missing=True, weights=True)
    batch["hessian"][5], loss = MISSING, TotalLoss({"term": HessianProductTerm()})
    parts = [loss.prepare(take(batch, part)) for part in ([0, 1, 2, 3, 4], [], [5, 6, 7])]
    step = loss.step(parts)
    whole = total(loss, batch)
    assert whole > 0
    assert_same([sum(loss(predicted(part), part, step) for part in parts)], [whole])


def test_what_is_missing_of_the_hessian_is_missing_in_its_row():
    batch = batch_of()
    batch["hessian"][5, 2, 0] = MISSING  # of atoms 2 and 3: component 2 of atom 2
    loss = TotalLoss({"term": HessianProductTerm()})
    prepared = loss.prepare(batch)
    assert prepared["hessian_product"].isnan().nonzero().tolist() == [[2, 2]]
    assert loss.step([prepared]).labels.tolist() == [17]
    assert total(loss, batch).isfinite()


def test_without_a_hessian_it_is_a_connected_zero():
    batch, loss = batch_of(), TotalLoss({"term": HessianProductTerm()})
    del batch["hessian"]
    prepared = loss.prepare(batch)
    product = torch.zeros(6, 3, requires_grad=True)
    value = loss({"hessian_product": product}, prepared)
    value.backward()
    assert value == 0 and product.grad.count_nonzero() == 0


def test_each_step_has_directions_of_its_own():
    batch, loss = batch_of(), TotalLoss({"term": HessianProductTerm()})
    first = loss.prepare(batch)["hessian_direction"]
    assert torch.equal(loss.prepare(batch)["hessian_direction"], first) and first.abs().eq(1).all()
    loss.advance()
    assert not torch.equal(loss.prepare(batch)["hessian_direction"], first)
    given = {**batch, "hessian_direction": first}
    assert loss.prepare(given)["hessian_direction"] is first


def test_nothing_waits_for_the_device():
    batch, loss = batch_of(), TotalLoss({"term": HessianProductTerm()})
    with HostSynchronisations() as waiting:
        total(loss, batch)
    assert not waiting.found


def test_it_says_what_it_needs():
    loss = TotalLoss({"term": HessianProductTerm(2)})
    assert set(loss.required) == {"hessian_product"} and set(loss.labels) == {"hessian"}
    assert loss.required["hessian_product"].shape == (3, 2)
    assert "Hv, v: 2 of random signs" in loss.by_name["term"].formula()


FOLDER = Path(__file__).parents[2] / "shared" / "data" / "deepmd_examples" / "hessian" / "data"


def molecules(name, rows):
    """Frames of a folder of DeePMD-kit's with their Hessians."""
    if not (FOLDER / name).exists():
        pytest.skip(f"reference data {name} are not here")
    content = DeepMd(FOLDER / name, "deepmd", {}, {"hessian"})
    return [frame for _, frame in content.frames(rows)]


def labelled(frames):
    """A batch of molecules, labelled with their Hessians."""
    atoms = [Atoms(frame.numbers, frame.positions) for frame in frames]
    blocks = []
    for frame in frames:
        size, matrix = len(frame.numbers), torch.from_numpy(np.array(frame.content["data"]["hessian"]))
        blocks.append(matrix.reshape(size, 3, size, 3).transpose(1, 2).reshape(-1, 3, 3))
    return {**to_batch(atoms), "index": torch.arange(len(atoms)), "hessian": torch.cat(blocks)}


def test_published_hessians_are_symmetric_and_do_not_feel_translations():
    for name, size in (("H8C4N2O", 15), ("H10C5N2O", 18)):
        frames = molecules(name, range(3))
        batch = labelled(frames)
        assert batch["hessian"].shape == (3 * size**2, 3, 3)
        for matrix in matrices(batch["hessian"], batch):
            assert (matrix - matrix.T).abs().max() == 0
            assert torch.linalg.eigvalsh(matrix)[-1] > 10
        moved = torch.ones_like(batch["positions"])
        assert product_of_blocks(batch["hessian"], moved, batch).abs().max() < 1e-5


@pytest.mark.parametrize("term", [HessianProductTerm(), PropertyTerm("hessian")], ids=["product", "whole"])
def test_a_potential_learns_published_hessians(term):
    """The share of the squared Hessian that is not explained falls, of whole matrices too."""
    batch = labelled(molecules("H8C4N2O", range(1)))
    torch.manual_seed(0)
    network = PaiNN(channels=8, layers=2, cutoff=3.5, radial=8)
    network.set_scale(10.0)
    potential, loss = Potential(network).double(), TotalLoss({"term": term})
    optimizer = torch.optim.Adam(potential.parameters(), lr=0.02)

    def unexplained():
        found = potential(batch, ("hessian",), training=False)["hessian"]
        return float((found - batch["hessian"]).square().mean() / batch["hessian"].square().mean())

    before = unexplained()
    for _ in range(40 if "hessian_product" in loss.required else 12):
        prepared = loss.prepare(batch)
        optimizer.zero_grad()
        loss(potential(prepared, loss.required), prepared).backward()
        optimizer.step()
        loss.advance()
    assert unexplained() < 0.7 * before


@pytest.mark.parametrize("directions", [0, -1])
def test_a_product_needs_a_direction(directions):
    with pytest.raises(ValueError, match="at least one direction"):
        HessianProductTerm(directions)

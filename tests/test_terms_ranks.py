"""Terms that look at the model, or draw at random, are the same on many ranks as on one."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from pesloss.losses import Property, TotalLoss
from pesloss.losses.terms.conservative import CurlPenalty, EquivariancePenalty, RotationPenalty
from pesloss.losses.terms.denoising import DenoisingTerm
from pesloss.losses.terms.distillation import Distillation
from pesloss.losses.terms.generalized import GeneralizedForcesTerm
from pesloss.losses.terms.hessian import HessianProductTerm
from pesloss.losses.terms.regularisers import WeightPenalty
from tests import batches, ranks
from tests.fields import Field
from tests.laws import assert_finite, assert_same

DIRECT = Property("direct_forces", rows="atom", shape=(3,), unit="eV/Å")
SHARES = {2: [[0, 1, 2, 3, 4], [5, 6, 7]], 3: [[3, 4], [], [0, 1, 2, 5, 6, 7]]}


def loss_of(field):
    terms = {
        "curl": CurlPenalty(DIRECT),
        "rotation": RotationPenalty(),
        "equivariance": EquivariancePenalty(DIRECT, reduction="per_structure"),
        "denoising": DenoisingTerm(ratio=0.3),
        "distillation": Distillation(DIRECT, teacher="forces"),
        "generalized": GeneralizedForcesTerm(2, DIRECT),
        "hessian": HessianProductTerm(),
        "weights": WeightPenalty(),
    }
    loss = TotalLoss(terms, weights={"weights": 0.1})
    loss.attach(field)
    loss.advance()
    return loss


def structures():
    batch = batches.make()
    del batch["hessian_product"]
    batch["direct_forces"], batch["drdq"] = batch["forces"], batch["polarizability"][batch["batch"], :, :2]
    return batch


def value_and_gradients(part):
    field = Field(broken=True)
    loss = loss_of(field)
    batch = loss.prepare(batches.take(structures(), part))
    predictions = field(batch)
    output = loss.evaluate({**predictions, "hessian_product": predictions["direct_forces"]}, batch)
    gradients = torch.autograd.grad(output.total, list(field.parameters()))
    return [output.total.detach(), *gradients, *output.values.values()]


def work(rank, world, folder):
    ranks._start(rank, world, folder)
    total, *gradients = value_and_gradients(SHARES[world][rank])
    torch.save(ranks._averaged([total, *gradients[:3]], world) + gradients[3:], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", SHARES)
def test_ranks_are_one_process(world, tmp_path):
    torch.multiprocessing.spawn(work, args=(world, str(tmp_path)), nprocs=world)
    whole = value_and_gradients([i for share in SHARES[world] for i in share])
    assert_finite(whole)
    assert all(value > 0 for value in whole[4:])
    for rank in range(world):
        assert_same(torch.load(tmp_path / f"{rank}.pt", weights_only=True), whole)

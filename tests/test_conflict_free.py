"""Weights from the gradients of the terms: every term falls, however a step is dealt out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

import pesloss
from pesloss.losses import Step, TermGradients, TotalLoss
from pesloss.training import NonFiniteError, Trainer
from pesloss.training.launch import launch
from pesloss.weighting import ConflictFree
from tests import batches, files, ranks
from tests.laws import EXACT, assert_finite, assert_same
from tests.parts import PENALTIES, REDUCTIONS, three_terms
from tests.trainings import prepared, rows, run, trained

PRIOR = {"energy": 1.0, "forces": 5.0, "stress": 0.3}
WEIGHTS = torch.tensor([*PRIOR.values()], dtype=torch.float64)
GRADIENTS = torch.tensor(
    [[1.0, 2.0, -1.0, 0.0, 0.5], [-2.0, 1.0, 0.0, 3.0, 1.0], [0.1, 0.2, -0.3, 0.1, 0.0]], dtype=torch.float64
)
NEQUIP = {
    3: [-1.6246905486151255, 1.8731368028181348, 1.1912340195189912, 2.2657354245674215, 1.6405495434425965],
    2: [-1.9378790944677675, 1.605404493057676, -0.2545859783295168, 3.2886976091959275, 1.2235255255634003],
}
"""What NequIP 0.19.1 makes of the first three or two gradients with these weights."""
OPTIONS = ["weighting=conflict_free", "trainer.clip_norm=null", "trainer.batch_size=6"]


def combined(gradients: Tensor, *weights: float) -> Tensor:
    """Gradient of a step from those of its terms."""
    made = ConflictFree()
    made.setup({str(i): weight for i, weight in enumerate(weights)})
    return made.from_gradients(gradients @ gradients.T) @ gradients


def randomly(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("terms", NEQUIP)
def test_equal_to_nequip(terms):
    found = combined(GRADIENTS[:terms], *WEIGHTS[:terms].tolist())
    torch.testing.assert_close(found.tolist(), NEQUIP[terms], **EXACT)


@pytest.mark.parametrize("terms", [1, 2, 5])
def test_equal_to_the_formula_of_the_paper(terms):
    gradients, weights = randomly(terms, 40).numpy(), 1.0 + np.arange(terms)
    direction = np.linalg.pinv(gradients / np.linalg.norm(gradients, axis=1, keepdims=True)) @ weights
    direction /= np.linalg.norm(direction)
    expected = torch.tensor((gradients @ direction).sum() * direction)
    torch.testing.assert_close(combined(torch.tensor(gradients), *weights), expected, **EXACT)


def test_the_cosine_with_each_gradient_is_in_proportion_to_its_weight():
    """Also if gradients conflict; how long they are plays no role."""
    conflicting = randomly(3, 20) - torch.tensor([2.0, 0.0, -3.0])[:, None]
    step = combined(conflicting, *PRIOR.values())
    cosines = torch.nn.functional.cosine_similarity(conflicting, step[None])
    assert bool((cosines > 0).all()) and bool((conflicting @ conflicting.sum(0) < 0).any())
    torch.testing.assert_close(cosines / cosines.norm(), WEIGHTS / WEIGHTS.norm(), **EXACT)


def test_only_ratios_of_the_weights_count():
    torch.testing.assert_close(
        combined(GRADIENTS, *(7 * WEIGHTS).tolist()), combined(GRADIENTS, *WEIGHTS.tolist()), **EXACT
    )


def test_a_gradient_alone_is_the_step():
    torch.testing.assert_close(combined(GRADIENTS[:1], 3.0), GRADIENTS[0], **EXACT)


def test_a_gradient_of_zero_is_left_out():
    without = torch.cat([GRADIENTS[:2], torch.zeros(1, 5)])
    torch.testing.assert_close(combined(without, 1, 5, 0.3), combined(GRADIENTS[:2], 1, 5), **EXACT)
    assert not combined(torch.zeros(2, 5, dtype=torch.float64), 1, 5).any()


@pytest.mark.parametrize("factor", [2.5, -2.5])
def test_parallel_and_opposite_gradients_are_summed(factor):
    pair = torch.stack([GRADIENTS[0], factor * GRADIENTS[0]])
    torch.testing.assert_close(combined(pair, 1.0, 5.0), pair.sum(0), **EXACT)


def test_opposite_gradients_of_equal_weight_make_no_step():
    pair = torch.stack([GRADIENTS[0], -2.5 * GRADIENTS[0]])
    torch.testing.assert_close(combined(pair, 3.0, 3.0), torch.zeros(5, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_where_it_is(value):
    broken = GRADIENTS.clone()
    broken[1, 3] = value
    assert (~combined(broken, *PRIOR.values()).isfinite()).nonzero().tolist() == [[3]]


# A model whose parameters every term depends on


def shared_parameters() -> list[Tensor]:
    return [part.clone().requires_grad_() for part in (randomly(3, seed=1), randomly(2, seed=2))]


def predict(theta: list[Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Energy, forces and stress from the same parameters, each in its own way."""
    scale, shift = theta
    return {
        name: batch[f"x::{name}"] * scale[i].sin() + scale[i - 1] * shift[0] + shift[1].square() / (i + 1)
        for i, name in enumerate(PRIOR)
    }


def made(reduction: str = "mean", **options) -> TotalLoss:
    options = {"weighting": ConflictFree(), **options}
    return three_terms(PENALTIES["huber"], REDUCTIONS[reduction], **options)


def step_of(loss: TotalLoss, parts: list[dict[str, Tensor]], *, terms: bool = False) -> list[Tensor]:
    """Values, weights, total and gradients of one step."""
    theta = shared_parameters()
    gradients = TermGradients(loss, theta)
    ahead = None if loss.linear else [predict(theta, part) for part in parts]
    step: Step | None = loss.step(parts, ahead) if len(parts) > 1 else None
    for part in parts:
        for names in [[name] for name in loss.terms] if terms else [None]:
            gradients.add(loss.values(predict(theta, part), part, step), names)
    output = gradients.combine()
    return [output.total, *output.values.values(), *output.weights.values(), *(p.grad for p in theta)]


@pytest.mark.parametrize("reduction", ["mean", "root_mean"])
@pytest.mark.parametrize("deal", [[[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 1, 2, 3, 4], [5, 6, 7], []]])
def test_accumulated_batches_are_one_batch(reduction, deal):
    batch = batches.make()
    whole = step_of(made(reduction), [batch])
    assert_finite(whole)
    assert_same(step_of(made(reduction), [batches.take(batch, part) for part in deal]), whole)


def test_terms_may_be_differentiated_in_passes_of_their_own():
    parts = [batches.take(batches.make(), part) for part in ([0, 1, 2], [3, 4, 5, 6, 7])]
    assert_same(step_of(made(), parts, terms=True), step_of(made(), parts))


def test_the_gradient_is_the_weighted_sum_of_those_of_the_terms():
    batch = batches.make()
    total, *found = step_of(made(), [batch])
    values, weights, gradient = torch.stack(found[:3]), torch.stack(found[3:6]), torch.cat(found[6:])
    theta = shared_parameters()
    again = made().values(predict(theta, batch), batch)
    parts = [torch.cat(torch.autograd.grad(value, theta, retain_graph=True)) for value in again]
    torch.testing.assert_close(again.detach(), values, **EXACT)
    torch.testing.assert_close(gradient, weights @ torch.stack(parts), **EXACT)
    torch.testing.assert_close(gradient, combined(torch.stack(parts), *PRIOR.values()), **EXACT)
    torch.testing.assert_close(total, weights @ values, **EXACT)


@pytest.mark.parametrize("absent", PRIOR)
def test_a_term_without_labels_is_left_out(absent):
    batch = {**batches.make(), absent: torch.full_like(batches.make()[absent], batches.MISSING)}
    rest = {name: weight for name, weight in PRIOR.items() if name != absent}
    whole = step_of(made(), [batch])
    weights = dict(zip(PRIOR, whole[4:7], strict=True))
    terms = {name: part for name, part in made().terms.items() if name in rest}
    without = step_of(TotalLoss(terms, weights=rest, weighting="conflict_free"), [batch])
    assert weights.pop(absent) == 0
    assert_same([*weights.values(), *whole[7:]], without[3:])


def test_the_weight_of_the_loss_scales_the_step():
    batch = batches.make()
    once, thrice = step_of(made(), [batch]), step_of(made(weight=3.0), [batch])
    assert_same(thrice[4:], [3 * part for part in once[4:]])


def test_a_parameter_that_no_term_depends_on_has_no_gradient():
    theta, batch, loss = [*shared_parameters(), torch.ones(2).requires_grad_()], batches.make(), made()
    gradients = TermGradients(loss, theta)
    gradients.add(loss.values(predict(theta[:2], batch), batch))
    gradients.combine()
    assert [part.grad is None for part in theta] == [False, False, True]


def work(rank: int, world: int, folder: str) -> None:
    ranks._start(rank, world, folder)
    parts = ranks.share(rank, world)
    found = {"once": step_of(made(), [ranks.join(parts)]), "accumulated": step_of(made(), parts)}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_are_one_process(tmp_path):
    """The second has no structures."""
    torch.multiprocessing.spawn(work, args=(2, str(tmp_path)), nprocs=2)
    whole = step_of(made(), [ranks.whole(2)])
    for rank in range(2):
        for found in torch.load(tmp_path / f"{rank}.pt", weights_only=True).values():
            assert_same(found, whole)


# Training


def train(fabric, folder: str) -> None:
    trained(Path(folder) / f"run{fabric.world_size}", *OPTIONS, fabric=fabric, num=31)


def test_accumulated_batches_and_ranks_train_as_one(tmp_path):
    """Batches of 6 and a last one of 1, which leaves a rank without data."""
    files.write(tmp_path / "data.xyz", 31)
    for devices in (1, 2):
        launch(Trainer(devices=devices, precision="float64", accelerator="cpu"), train, str(tmp_path))
    small = ["trainer.batch_size=2", "trainer.accumulate=3"]
    trained(tmp_path / "parts", *OPTIONS, *small, num=31)
    one = rows(tmp_path / "run1/steps.csv")
    for name in ("run2", "parts"):
        for a, b in zip(one, rows(tmp_path / name / "steps.csv"), strict=True):
            assert a == pytest.approx(b, rel=1e-8, abs=1e-11)
    first = one[0]
    assert first["loss"] == pytest.approx(sum(first[f"weight/{n}"] * first[f"value/{n}"] for n in PRIOR))
    assert first["weight/forces"] != one[-1]["weight/forces"]


def test_a_loss_of_one_term_trains_as_ever(tmp_path):
    plain, _ = trained(tmp_path / "plain", "loss=energy")
    alone, _ = trained(tmp_path / "alone", "loss=energy", *OPTIONS[:1])
    for key, value in plain.potential.state_dict().items():
        torch.testing.assert_close(alone.potential.state_dict()[key], value, rtol=1e-9, atol=1e-9)


def test_a_compiled_model_is_differentiated_once_a_call(tmp_path, monkeypatch):
    """Its graph may overwrite what it holds; the training is the same."""
    monkeypatch.setattr(pesloss.models.Potential, "compile", lambda *_, **__: None)
    plain, _ = trained(tmp_path / "plain", *OPTIONS, "trainer.epochs=1")
    compiled, _ = trained(tmp_path / "compiled", *OPTIONS, "trainer.epochs=1", "trainer.compile=true")
    for key, value in plain.potential.state_dict().items():
        torch.testing.assert_close(compiled.potential.state_dict()[key], value, rtol=1e-9, atol=1e-9)


def test_a_training_in_mixed_precision(tmp_path):
    trained(tmp_path / "run", *OPTIONS, "trainer.precision=bfloat16", "trainer.epochs=1")


def test_a_gradient_that_is_not_finite_is_named(tmp_path):
    fit = prepared(tmp_path / "run", *OPTIONS)
    fit.potential.network.embedding.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteError, match=r"gradients are not finite, of network\.embedding\.weight\."):
        run(fit)


# What makes no sense


def test_a_total_to_differentiate_is_refused_in_training_alone():
    loss, batch = made(), batches.make()
    with pytest.raises(RuntimeError, match=r"train with pesloss\.losses\.TermGradients"):
        loss(predict(shared_parameters(), batch), batch)
    output = loss.eval().evaluate(predict(shared_parameters(), batch), batch)
    assert {name: float(weight) for name, weight in output.weights.items()} == PRIOR


def test_other_weights_need_no_gradients_of_terms():
    with pytest.raises(TypeError, match=r"such as conflict_free; Fixed needs loss\(\.\.\.\)\.backward\(\)"):
        TermGradients(made(weighting="fixed"), shared_parameters())


def test_a_step_without_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"Terms \['energy', 'forces', 'stress'\] have no gradient"):
        TermGradients(made(), shared_parameters()).combine()


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -1e-8])
def test_epsilon_is_a_small_number(epsilon):
    with pytest.raises(ValueError, match="between 0 and 1"):
        ConflictFree(epsilon)


def test_a_config_names_it():
    loss = pesloss.build(
        {
            "_target_": "pesloss.NormalLoss",
            "terms": {"energy": {}, "forces": {}},
            "weighting": "conflict_free",
        }
    )
    assert isinstance(loss.weighting, ConflictFree)
    assert "∝ 1" in loss.weighting.formula("energy")

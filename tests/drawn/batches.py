"""Whatever is in a batch, the loss is finite, or loud, and follows its laws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from pesloss.losses import TotalLoss, check_batch
from pesloss.losses.batch import flat_rows
from tests.batches import ALL, make, take
from tests.drawn.configs import attempt, sentence
from tests.laws import accumulated, assert_finite, assert_same, forward, leaves, value_and_gradients
from tests.parts import LOSSES, PENALTIES, REDUCTIONS, three_terms

COMPARED = ("energy", "forces", "stress")
OF_ALL = ("mean_over_entries", "per_structure_all")
"""Reductions in which what has no label counts as zero."""

seeds = st.integers(0, 10**6)
sizes = st.lists(st.integers(1, 5), max_size=4)
magnitudes = st.sampled_from([1e-30, 1e-12, 1e-3, 1.0, 1e3, 1e12, 1e30])
dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
poisons = st.sampled_from([torch.nan, torch.inf, -torch.inf])
losses = st.sampled_from(sorted(LOSSES))
plain = st.tuples(st.sampled_from(sorted(PENALTIES)), st.sampled_from(sorted(REDUCTIONS)))
"""Energies per atom, forces and stress in six numbers, by a penalty and a reduction."""


@dataclass(frozen=True)
class Batch:
    """Ragged structures; labels and weights are there, there in part, all missing, or absent."""

    sizes: list[int]
    seed: int
    missing: bool
    weights: bool
    fates: list[tuple[str, str, float]]

    def __call__(self) -> dict[str, Tensor]:
        batch = make(self.sizes, seed=self.seed, missing=self.missing, weights=self.weights)
        for name, fate, number in self.fates:
            if name not in batch or fate == "absent":
                batch.pop(name, None)
            elif len(batch[name]):
                rows = slice(None) if fate == "all" else [int(97 * number) % len(batch[name])]
                batch[name][rows] = torch.nan if name in ALL else number
        return batch


batches = st.builds(
    Batch,
    sizes=sizes,
    seed=seeds,
    missing=st.booleans(),
    weights=st.booleans(),
    fates=st.lists(
        st.tuples(
            st.sampled_from([*ALL, "weight", "atom_weight", "energy_weight"]),
            st.sampled_from(["absent", "all", "row"]),
            st.sampled_from([0.0, 1.0, 1e6]),
        ),
        max_size=3,
    ),
)


def in_part(loss: TotalLoss, batch: dict[str, Tensor]) -> list[Tensor]:
    """Total, and the gradient of every prediction."""
    return forward(loss, leaves(batch), batch)


def built(name: str) -> TotalLoss:
    loss = LOSSES[name]()
    loss.place()
    return loss


def composed(parts: tuple[str, str], **options: Any) -> TotalLoss:
    return three_terms(PENALTIES[parts[0]], REDUCTIONS[parts[1]], **options)


@given(losses, batches)
def test_value_and_gradients_are_finite(name: str, drawn: Batch) -> None:
    assert_finite(in_part(built(name), drawn()))


@given(plain, batches, dtypes, dtypes, magnitudes, magnitudes)
def test_any_precision_and_size_is_finite_or_loud(
    parts: tuple[str, str],
    drawn: Batch,
    predicted: torch.dtype,
    labelled: torch.dtype,
    size: float,
    label_size: float,
) -> None:
    """What is beyond the largest float is so in the value itself."""
    batch = drawn()
    predictions = {name: (size * value.detach()).to(predicted) for name, value in leaves(batch).items()}
    predictions = {name: predictions[name].requires_grad_() for name in COMPARED}
    batch |= {name: (label_size * batch[name]).to(labelled) for name in COMPARED if name in batch}
    total, *gradients = forward(composed(parts), predictions, batch)
    assert total.dtype in (torch.float32, torch.float64)
    assert total.isfinite() or max(size, label_size) > 1e3
    assert not total.isfinite() or not any(gradient.isnan().any() for gradient in gradients)


@given(losses, batches, st.data())
def test_splitting_a_batch_changes_nothing(name: str, drawn: Batch, data: st.DataObject) -> None:
    batch, loss = drawn(), built(name)
    num = len(batch["ptr"]) - 1
    cut = data.draw(st.integers(0, num))
    parts = [take(batch, range(cut)), take(batch, range(cut, num))]
    assert_same(accumulated(loss, parts), value_and_gradients(loss, batch))


@given(losses, batches, st.randoms(use_true_random=False))
def test_the_order_of_structures_changes_nothing(name: str, drawn: Batch, random: Any) -> None:
    batch, loss = drawn(), built(name)
    order = list(range(len(batch["ptr"]) - 1))
    random.shuffle(order)
    assert_same(value_and_gradients(loss, take(batch, order)), value_and_gradients(loss, batch))


@given(losses.filter(lambda name: not name.endswith(OF_ALL)), batches, seeds)
def test_a_structure_without_labels_is_no_structure(name: str, drawn: Batch, seed: int) -> None:
    batch, loss, more = drawn(), built(name), make((1, 3), seed=seed, missing=False)
    without = {key: torch.full_like(value, torch.nan) if key in ALL else value for key, value in more.items()}
    without["reaction"] = without["reaction"] + 10
    assert_same(value_and_gradients(loss, _joint(batch, without)), value_and_gradients(loss, batch))


@given(plain, batches, st.sampled_from([1e-3, 0.5, 7.0]))
def test_a_weight_scales_its_share(parts: tuple[str, str], drawn: Batch, factor: float) -> None:
    batch = drawn()
    shares = [factor * part for part in in_part(composed(parts), batch)]
    assert_same(in_part(composed(parts, weight=factor), batch), shares)


@given(plain, batches, st.sampled_from(COMPARED), poisons)
def test_what_is_predicted_without_a_label_does_not_matter(
    parts: tuple[str, str], drawn: Batch, name: str, poison: float
) -> None:
    batch, loss = drawn(), composed(parts)
    predictions, bad = leaves(batch), {key: value.detach().clone() for key, value in leaves(batch).items()}
    rows = _idle(batch, name)
    bad[name][rows] = poison
    found = forward(loss, {key: value.requires_grad_() for key, value in bad.items()}, batch)
    assert_same(found, forward(loss, predictions, batch))
    assert not found[1 + list(bad).index(name)][rows].any()


@given(plain, batches, poisons, st.data())
def test_a_labelled_prediction_that_is_not_finite_is_loud(
    parts: tuple[str, str], drawn: Batch, poison: float, data: st.DataObject
) -> None:
    """Of all components of a force that counts, any one is enough."""
    batch = drawn()
    rows = _counting_forces(batch)
    assume(rows)
    bad = {key: value.detach().clone() for key, value in leaves(batch).items()}
    bad["forces"][data.draw(st.sampled_from(rows)), data.draw(st.integers(0, 2))] = poison
    assert not composed(parts)(bad, batch).isfinite()


CORRUPTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "a row less": lambda value: value[:-1],
    "a row more": lambda value: torch.cat([value, value[-1:]]),
    "an axis more": lambda value: value[..., None],
    "a number for all": lambda value: value.double().mean(),
    "whole numbers": lambda value: value.nan_to_num().long(),
    "yes or no": lambda value: value > 0,
    "infinite": lambda value: value.double() + torch.inf,
}


@given(
    plain,
    batches,
    st.sampled_from([*COMPARED, "weight", "forces_weight", "energy_weight", "atom_weight"]),
    st.sampled_from(sorted(CORRUPTIONS)),
    st.booleans(),
)
def test_entries_of_a_wrong_shape_or_kind_are_named(
    parts: tuple[str, str], drawn: Batch, key: str, what: str, of_prediction: bool
) -> None:
    batch, loss = drawn(), composed(parts)
    predictions = {name: value.detach() for name, value in leaves(batch).items()}
    where = predictions if of_prediction and key in COMPARED else batch
    assume(key in where and len(batch["ptr"]) > 1)
    before = loss(predictions, batch)
    where[key] = CORRUPTIONS[what](where[key])
    total = attempt(lambda: loss(predictions, batch))
    kept = what in ("whole numbers", "yes or no", "infinite")
    assert total is None or kept or torch.equal(total, before), (total, before)


@given(batches)
def test_a_batch_that_is_right_is_let_through(drawn: Batch) -> None:
    check_batch(drawn())


VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "shifted": lambda value: value + 1000,
    "negative": lambda value: -1 - value.abs(),
    "infinite": lambda value: value.double() + torch.inf,
}


@given(
    batches.filter(lambda drawn: len(drawn.sizes) > 1),
    st.sampled_from(
        ["ptr", "batch", "numbers", "config_type", "weight", "forces_weight", "energy", "forces"]
    ),
    st.sampled_from(sorted({**CORRUPTIONS, **VALUES})),
)
def test_a_batch_that_is_wrong_is_named(drawn: Batch, key: str, what: str) -> None:
    """Or its loss is what it was, or it is wrong in a way that no batch shows."""
    batch = drawn()
    assume(key in batch and not batch[key].isnan().all())
    batch[key] = {**CORRUPTIONS, **VALUES}[what](batch[key])
    right = what in ("whole numbers", "yes or no", "an axis more") or (key, what) in UNKNOWABLE
    said = _said(lambda: check_batch(batch))
    assert right or said, batch[key]
    assert not said or key in said or "ptr" in said


UNKNOWABLE = [("config_type", "shifted"), ("config_type", "negative")]
UNKNOWABLE += [(key, "shifted") for key in ("weight", "forces_weight")]
UNKNOWABLE += [(key, what) for key in ("energy", "forces") for what in ("shifted", "negative")]


def _said(action: Callable[[], Any]) -> str:
    """The sentence of an error, none if there is none."""
    try:
        action()
    except (ValueError, KeyError, TypeError) as error:
        return sentence(error)
    return ""


def _joint(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    """One batch of two, with what the first has."""
    both = {key: torch.cat([a[key], b[key]]) for key in a if key not in ("ptr", "batch")}
    both["ptr"] = torch.cat([a["ptr"], a["ptr"][-1] + b["ptr"][1:]])
    both["batch"] = torch.cat([a["batch"], len(a["ptr"]) - 1 + b["batch"]])
    return both


def _idle(batch: dict[str, Tensor], name: str) -> Tensor:
    """Rows of a property that no loss may look at: without any label, or of weight 0."""
    label = batch.get(name, torch.full_like(batch[f"x::{name}"], torch.nan))
    idle = flat_rows(label.isnan()).all(1)
    return idle | (batch[f"{name}_weight"] == 0) if f"{name}_weight" in batch else idle


def _counting_forces(batch: dict[str, Tensor]) -> list[int]:
    """Atoms of whose forces every component counts."""
    if "forces" not in batch:
        return []
    counts = ~batch["forces"].isnan().any(1)
    for key in ("forces_weight", "atom_weight"):
        counts &= batch.get(key, torch.ones(len(counts))) != 0
    if "weight" in batch:
        counts &= batch["weight"][batch["batch"]] != 0
    return counts.nonzero().flatten().tolist()

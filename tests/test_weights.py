"""Law 5: every weight acts, on exactly its share; 0 is the same as removing what it weighs."""

import math

import pytest
import torch

from pesloss.losses import Huber, Mean, PropertyTerm, TotalLoss
from pesloss.losses.batch import structure_of_row
from tests.batches import ALL, MISSING, make, take
from tests.laws import EXACT, assert_same, forward, leaves, value_and_gradients, whole_step
from tests.parts import LOSSES

# a cost times its weight, which these are not
OUTSIDE = [name for name in LOSSES if "root" not in name and name not in ("weight inside", "signs")]
LEVELS = ["weight", "energy_weight", "forces_weight", "stress_weight", "atom_weight"]
# these are there to count what has a weight of 0
COUNT_WEIGHT_ZERO = ("mean_over_entries", "mean_over_labelled")
COUNTED = [name for name in LOSSES if "mean_over_weights" not in name]


def loss(**options):
    terms = {
        "energy": PropertyTerm("energy", residual="per_atom", penalty=Huber(0.3)),
        "forces": PropertyTerm("forces", penalty=Huber(0.2), components=options.pop("components", None)),
        "stress": PropertyTerm("stress", residual="voigt", penalty="absolute"),
    }
    return TotalLoss(terms, **{"weights": {"energy": 1, "forces": 2, "stress": 3}, **options})


def totals(made, batches):
    """Totals and gradients with the denominators of the first, for the same predictions."""
    predictions = leaves(batches[0])
    step = whole_step(made[0], [batches[0]])
    return [forward(each, predictions, batch, step) for each, batch in zip(made, batches, strict=True)]


def assert_proportional(one, none, times, factor):
    """What a weight of 1 adds, a weight of ``factor`` adds that often; and it is something."""
    assert_same([n + factor * (o - n) for o, n in zip(one, none, strict=True)], times)
    assert one[0] != none[0]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_a_weight_of_a_row_multiplies_its_share(level, factor):
    """Its share is what it adds to a total of the same denominators."""
    batch, row = make(missing=False), 3
    assert batch[level][row] != 0
    scaled = [{**batch, level: batch[level].clone()} for _ in range(2)]
    scaled[0][level][row], scaled[1][level][row] = 0, factor * batch[level][row]
    assert_proportional(*totals([loss()] * 3, [batch, *scaled]), factor)


@pytest.mark.parametrize("name", [name for name in OUTSIDE if "groups" not in name])
@pytest.mark.parametrize("key", ["weight", "row"])
def test_costs_are_linear_in_their_weights(name, key):
    """Every loss: between a weight and its triple lies its double."""
    batch = make()
    made = LOSSES[name]()
    key = f"{next(iter(made.labels))}_weight" if key == "row" else key
    batch["entropy"] = batch["weight"]
    key = "entropy" if key == "weight" and name in ("NormalLoss", "UncertaintyLoss") else key
    rows = torch.arange(len(batch[key])) % 2 == 0
    grown = [{**batch, key: torch.where(rows, c * batch[key], batch[key])} for c in (1.0, 2.0, 3.0)]
    one, two, three = totals([made] * 3, grown)
    assert_same([(a + b) / 2 for a, b in zip(one, three, strict=True)], two)


@pytest.mark.parametrize("factor", [0.25, 3.0])
@pytest.mark.parametrize("term", ["energy", "forces", "stress"])
def test_the_weight_of_a_term(term, factor):
    batch = make()
    predictions = leaves(batch)
    weights = {"energy": 1.0, "forces": 2.0, "stress": 3.0}
    one = forward(loss(weights=weights), predictions, batch)
    none = forward(loss(weights={**weights, term: 0}), predictions, batch)
    times = forward(loss(weights={**weights, term: factor * weights[term]}), predictions, batch)
    assert_proportional(one, none, times, factor)


@pytest.mark.parametrize("name", LOSSES)
def test_the_weight_of_the_whole(name):
    batch, made = make(), LOSSES[name]()
    predictions = leaves(batch)
    one = forward(made, predictions, batch)
    made.weight *= 3
    assert_same(forward(made, predictions, batch), [3 * part for part in one])
    torch.testing.assert_close(loss(weight=3.0).weight.item(), 3.0)


@pytest.mark.parametrize("key", ["config_type_weights", "dataset_weights"])
@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_the_weight_of_a_group(key, factor):
    batch = make()
    group = {"config_type_weights": "surface", "dataset_weights": "a"}[key]
    made = [loss(), loss(**{key: {group: 0}}), loss(**{key: {group: factor}})]
    assert_proportional(*totals(made, [batch] * 3), factor)


@pytest.mark.parametrize("component", [0, 1, 2])
def test_the_weight_of_a_component(component):
    batch = make()
    made = [loss(components=[float(c) if i == component else 1.0 for i in range(3)]) for c in (1, 0, 3)]
    assert_proportional(*totals(made, [batch] * 3), 3)


@pytest.mark.parametrize(("prop", "shape"), [("forces", (3,)), ("stress", (3, 3))])
def test_weights_of_components_are_in_the_order_of_the_components(prop, shape):
    batch = make(missing=False)
    weights = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape) + 1
    predictions = leaves(batch)
    plain, weighted = (
        torch.autograd.grad(TotalLoss({prop: {"components": each}})(predictions, batch), predictions[prop])[0]
        for each in (None, weights.tolist())
    )
    torch.testing.assert_close(weighted, plain * weights, **EXACT)


def test_weights_of_voigt_components_are_in_the_order_of_voigt():
    """A weight for yz alone: the fourth of xx, yy, zz, yz, xz, xy."""
    batch = make(missing=False, weights=False)
    predictions = leaves(batch)
    components = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    total = TotalLoss({"stress": {"residual": "voigt", "components": components}})(predictions, batch)
    (gradient,) = torch.autograd.grad(total, predictions["stress"])
    assert gradient[0].nonzero().tolist() == [[1, 2], [2, 1]]


def test_the_weight_of_a_component_of_an_atom():
    batch = make(missing=False)
    batches = [{**batch, "atom_weight": torch.ones(25, 3, dtype=torch.float64)} for _ in range(3)]
    batches[1]["atom_weight"][12, 2], batches[2]["atom_weight"][12, 2] = 0, 3
    assert_proportional(*totals([loss()] * 3, batches), 3)


@pytest.mark.parametrize("name", [name for name in LOSSES if not name.endswith(COUNT_WEIGHT_ZERO)])
@pytest.mark.parametrize("key", ["weight", "entropy", "row"])
def test_weight_zero_is_no_label(name, key):
    """Value, gradients and count are those of a batch without these labels."""
    batch, zero = make(), [1, 4, 6]
    batch["entropy"] = batch["weight"]
    labels = LOSSES[name]().labels
    keys = [f"{prop}_weight" for prop in labels] if key == "row" else ["weight", "entropy"]
    weighted = {k: v.clone() for k, v in batch.items()}
    missing = {k: v.clone() for k, v in batch.items()}
    for each in keys:
        weighted[each][zero] = 0
    for prop in labels:
        structures = structure_of_row(batch, ALL[prop].rows, len(batch[prop]))
        rows = zero if key == "row" else torch.isin(structures, torch.tensor(zero))
        missing[prop][rows] = MISSING
    assert_same(value_and_gradients(LOSSES[name](), weighted), value_and_gradients(LOSSES[name](), missing))
    found, expected = (whole_step(LOSSES[name](), [b]) for b in (weighted, missing))
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.counts, expected.counts, **EXACT)


def test_a_structure_of_weight_zero_might_as_well_be_gone():
    batch = make()
    batch["weight"][[0, 2, 3]] = 0
    gone = value_and_gradients(loss(), take(batch, [1, 4, 5, 6, 7]))
    assert_same(value_and_gradients(loss(), batch), gone)


@pytest.mark.parametrize("name", COUNTED)
def test_the_size_of_a_weight_is_not_counted(name):
    batch = make()
    larger = {k: 1e-3 * v if k.endswith("weight") else v for k, v in batch.items()}
    found, expected = whole_step(LOSSES[name](), [larger]), whole_step(LOSSES[name](), [batch])
    assert torch.equal(found.counts, expected.counts) and torch.equal(found.labels, expected.labels)


def test_a_term_of_weight_zero_asks_for_nothing():
    made, batch = loss(weights={"energy": 1.0, "forces": 0.0, "stress": 0.0}), make()
    assert set(made.required) == {"energy"} == set(made.by_name)
    output = made.evaluate({"energy": batch["x::energy"]}, batch)
    assert set(output.values) == set(output.weights) == {"energy"}


def test_weights_multiply_costs_or_residuals():
    """Outside the penalty by default; inside, the threshold of a Huber moves."""
    batch = make([1], missing=False, weights=False)
    batch["weight"] = torch.tensor([2.0], dtype=torch.float64)
    predictions = {"energy": batch["energy"] + 0.4}
    found = [
        TotalLoss({"energy": PropertyTerm("energy", penalty=Huber(0.5), weight_inside=inside)})(
            predictions, batch
        )
        for inside in (False, True)
    ]
    expected = torch.tensor([2 * 0.4**2 / 2, 0.5 * (0.8 - 0.25)], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(found), expected)


def test_weights_over_weights_are_a_weighted_mean():
    batch = make()
    made = TotalLoss({"energy": PropertyTerm("energy", reduction=Mean("weights"))})
    predictions = leaves(batch)
    doubled = {**batch, "weight": 2 * batch["weight"]}
    assert_same(forward(made, predictions, doubled), forward(made, predictions, batch))


def test_the_weight_of_a_structure_is_that_of_its_atoms():
    batch = make()
    of_structures = torch.tensor([1, 2, 0, 3, 0.5, 1, 4, 1], dtype=torch.float64)
    found = value_and_gradients(loss(), {**batch, "forces_weight": of_structures})
    spread = {**batch, "forces_weight": of_structures[batch["batch"]]}
    assert_same(found, value_and_gradients(loss(), spread))


def test_whole_numbers_are_weights_too():
    batch = make()
    whole = {**batch, "energy_weight": torch.tensor([1, 2, 0, 3, 1, 1, 0, 2])}
    real = {**whole, "energy_weight": whole["energy_weight"].double()}
    assert_same(value_and_gradients(loss(), whole), value_and_gradients(loss(), real))


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("weight", 25),
        ("weight", 1),
        ("energy_weight", 25),
        ("forces_weight", 7),
        ("atom_weight", 8),
        ("atom_weight", 1),
    ],
)
def test_weights_of_the_wrong_shape_are_refused(key, shape):
    batch = make()
    predictions = leaves(batch)
    with pytest.raises(ValueError, match=f"'{key}' has"):
        loss()(predictions, {**batch, key: torch.ones(shape, dtype=torch.float64)})


def test_weights_of_components_need_costs_of_components():
    batch = make()
    predictions = leaves(batch)
    batch["atom_weight"] = torch.ones(25, 3, dtype=torch.float64)
    made = TotalLoss({"forces": {"penalty": "l2_norm"}})
    with pytest.raises(ValueError, match=r"has shape \(25, 3\), .* expected one a row \(atoms, 25\)"):
        made(predictions, batch)


@pytest.mark.parametrize(
    "components", [[1.0, 2.0], [[1.0, 2.0, 3.0]], [1.0, -1.0, 0.0], [1.0, float("nan"), 1.0]]
)
def test_weights_of_components_fit_the_property(components):
    with pytest.raises(ValueError, match="Components of 'forces'"):
        PropertyTerm("forces", components=components)


def test_a_whole_entry_has_no_components():
    with pytest.raises(ValueError, match="expected none, for a penalty of whole entries"):
        PropertyTerm("forces", penalty="l2_norm", components=[1.0, 1.0, 1.0])


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "1", True, None])
@pytest.mark.parametrize("level", ["weight", "weights", "term"])
def test_a_weight_is_a_number_that_is_not_negative(level, weight):
    with pytest.raises((ValueError, TypeError), match="weight"):
        loss(
            **{level: weight if level == "weight" else {"energy": weight}}
        ) if level != "term" else PropertyTerm("energy", weight=weight)


def test_a_weight_of_nothing_gets_the_nearest():
    with pytest.raises(ValueError, match="weights: Unknown term 'force'; did you mean 'forces'"):
        loss(weights={"force": 1.0})


def test_a_loss_without_weights_is_none():
    with pytest.raises(ValueError, match="needs a term with a weight that is not 0"):
        loss(weights={"energy": 0, "forces": 0, "stress": 0})

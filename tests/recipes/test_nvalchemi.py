"""nvalchemi-toolkit: specs of its checkpoints, and losses as its guide writes them down."""

import pytest
import torch

from pesloss.losses import TotalLoss
from pesloss.recipes import Recipe, from_config, node
from pesloss.recipes.nvalchemi import LEAVES, Plan, term
from pesloss.recipes.nvalchemi_sums import parse
from tests.batches import make
from tests.laws import assert_same, forward, leaves

EFS = "1.0 * EnergyMSELoss() + 10.0 * ForceMSELoss() + 0.1 * StressMSELoss()"
SNIPPETS = {
    "a leaf": ("loss_fn = EnergyMSELoss()", {"energy": 1.0}),
    "a weighted leaf": ("3.0 * EnergyMSELoss()", {"energy": 3.0}),
    "two": (
        "loss_fn = EnergyMSELoss() + ForceMSELoss(normalize_by_atom_count=True)",
        {"energy": 1.0, "forces": 1.0},
    ),
    "three": ("EnergyMSELoss() + ForceMSELoss() + StressMSELoss()", {"energy": 1, "forces": 1, "stress": 1}),
    "weights": (EFS, {"energy": 1.0, "forces": 10.0, "stress": 0.1}),
    "composed": (
        "loss_fn = ComposedLossFunction(\n    [EnergyMSELoss(), ForceMSELoss()],\n"
        '    dtype_policy="prediction_to_target",\n)',
        {"energy": 1.0, "forces": 1.0},
    ),
    "composed with weights": (
        "ComposedLossFunction(components=[EnergyMSELoss(), ForceMSELoss()], weights=[1.0, 10.0])",
        {"energy": 1.0, "forces": 10.0},
    ),
    "a missing weight": (
        "ComposedLossFunction([EnergyMSELoss(), ForceMSELoss(), StressMSELoss()], weights=[None, 2.0, None])",
        {"energy": 1.0, "forces": 2.0, "stress": 1.0},
    ),
    "missing labels": ("EnergyMSELoss(ignore_nonfinite=True)", {"energy": 1.0}),
    "a policy": ('EnergyMSELoss(dtype_policy="prediction_to_target")', {"energy": 1.0}),
    "norms": ("ForceL2NormLoss(normalize_by_atom_count=False)", {"forces": 1.0}),
    "modules": (
        "losses.EnergyMSELoss() + 2 * nvalchemi.training.ForceMSELoss()",
        {"energy": 1.0, "forces": 2},
    ),
}
ABSOLUTE = "ComposedLossFunction([EnergyMSELoss()], normalize_weights=False)"
PLAN = """
    ConstantWeight(value=1.0) * EnergyMSELoss()
    + LinearWeight(start=0.0, end=1.0, num_steps=1000{linear}) * ForceMSELoss()
    + PiecewiseWeight(boundaries=(0, 10, 20), values=(0.0, 0.5, 1.0, 1.0), per_epoch=True) * StressMSELoss()
"""


def weights(loss):
    return dict(zip(loss.weighting.names, loss.weighting.prior.tolist(), strict=True))


def total(config, batch, **options):
    loss = from_config("nvalchemi", config, **options)
    loss.advance()
    return forward(loss, leaves(batch), batch)


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_gives_its_weights(name):
    text, expected = SNIPPETS[name]
    loss = from_config("nvalchemi", text)
    assert isinstance(loss, Recipe)
    whole = sum(expected.values())
    assert weights(loss) == pytest.approx({name: weight / whole for name, weight in expected.items()})


def test_weights_are_divided_by_their_sum():
    batch = make()
    loss = from_config("nvalchemi", EFS)
    output = loss.evaluate(leaves(batch), batch)
    torch.testing.assert_close(sum(output.weights.values()), torch.tensor(1.0, dtype=torch.float64))
    absolute = from_config("nvalchemi", parse(EFS) | {"normalize_weights": False})
    torch.testing.assert_close(absolute.evaluate(leaves(batch), batch).total, 11.1 * output.total)


def test_sums_are_flat_and_products_distribute():
    batch = make()
    nested = "2 * (EnergyMSELoss() + 10 * ForceMSELoss()) + StressMSELoss() * 0.2"
    assert_same(total(nested, batch), total(EFS, batch))


def test_a_strategy_or_a_leaf_has_a_spec():
    spec = parse(EFS)
    assert node("nvalchemi", {"loss_fn_spec": spec, "devices": ["cpu"]}) == node("nvalchemi", spec)
    leaf = {"cls_path": "nvalchemi.training.losses.terms.ForceHuberLoss", "timestamp": "any", "delta": 0.2}
    made = node("nvalchemi", leaf)
    assert made["huber_delta"] == {"forces": 0.2} and made["terms"]["forces"]["penalty"] == "huber"


def test_losses_of_one_property_have_names_of_their_own():
    text = "EnergyMSELoss() + EnergyMAELoss() + EnergyHuberLoss() + ForceL2NormLoss()"
    assert list(from_config("nvalchemi", text).terms) == ["energy", "energy_2", "energy_3", "forces"]


def test_keys_name_the_property_and_its_label():
    text = 'EnergyMSELoss(prediction_key="predicted_energy_dft") + ForceMSELoss(target_key="forces_dft")'
    energy, forces = node("nvalchemi", text)["terms"].values()
    assert energy["property"]["name"] == "energy_dft" and energy["label"] == "energy"
    assert forces["property"] == "forces" and forces["label"] == "forces_dft"


def test_leaves_by_name():
    loss = TotalLoss({"forces": term("ForceMSELoss"), "stress": term("StressMSELoss")})
    assert list(loss.terms) == ["forces", "stress"]
    with pytest.raises(ValueError, match="Unknown loss 'ForceMSLoss'; did you mean 'ForceMSELoss'"):
        term("ForceMSLoss")
    with pytest.raises(ValueError, match="ForceMSELoss: Unknown key 'delta'"):
        term("ForceMSELoss", delta=0.1)


@pytest.mark.parametrize("name", LEAVES)
def test_faithful_ones_count_structures_without_a_label(name):
    batch = make(weights=False)
    usual, faithful = (total(f"{name}()", batch, faithful=flag) for flag in (False, True))
    diluted = term(name).get("reduction") == "per_structure"
    assert (faithful[0] < usual[0]) if diluted else (faithful[0] == usual[0])


def test_steps_and_epochs_do_not_mix():
    with pytest.raises(ValueError, match=r"follows steps or epochs.*forces \(linear, by step\), stress"):
        from_config("nvalchemi", PLAN.format(linear=""))


def test_a_plan_by_epochs():
    loss = from_config("nvalchemi", PLAN.format(linear=", per_epoch=True"))
    found = {}
    for epoch in (0, 9, 10, 500, 2000):
        loss.advance(epoch=epoch)
        found[epoch] = loss.weighting.current.tolist()
    raw = {
        0: [1, 0, 0.5],
        9: [1, 0.009, 0.5],
        10: [1, 0.01, 1.0],
        500: [1, 0.5, 1.0],
        2000: [1, 1, 1],
    }
    expected = {epoch: [value / sum(values) for value in values] for epoch, values in raw.items()}
    for epoch, values in expected.items():
        assert found[epoch] == pytest.approx(values)
    fixed = from_config("nvalchemi", PLAN.format(linear=", per_epoch=True"), epoch=10)
    assert weights(fixed) == pytest.approx(
        dict(zip(("energy", "forces", "stress"), expected[10], strict=True))
    )


def test_slopes_of_one_step_are_jumps():
    assert Plan({-1: 0.0, 3: 1.0, 4: 2.0}).as_slopes().points == {-1: 0.0, 2: 0.0, 3: 1.0, 4: 2.0}
    linear = Plan({0: 0.0, 3: 1.0}, "linear")
    assert linear.as_slopes() == linear


def test_a_product_of_weights():
    linear = {"cls_path": "nvalchemi.training.losses.schedules.LinearWeight"}
    linear |= {"start": 1.0, "end": 3.0, "num_steps": 2, "per_epoch": True}
    product = {"cls_path": "nvalchemi.training.losses.composition._ProductWeight", "left": 2.0}
    spec = {**parse("EnergyMSELoss() + ForceMSELoss()"), "normalize_weights": False}
    spec["weights"] = [1.0, {**product, "right": linear}]
    loss = from_config("nvalchemi", spec, epoch=1)
    assert weights(loss) == {"energy": 1.0, "forces": 4.0}
    spec["weights"] = [1.0, {**product, "left": linear, "right": linear}]
    with pytest.raises(ValueError, match="product of two schedules"):
        from_config("nvalchemi", spec)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("EnergyMSLoss()", "Unknown class 'EnergyMSLoss'; did you mean 'EnergyMSELoss'"),
        ("EnergyMSELoss(per_atoms=True)", "Unknown key 'per_atoms'; did you mean 'per_atom'"),
        ("EnergyMSELoss(True)", "takes its arguments by name"),
        ("EnergyMSELoss() - ForceMSELoss()", "is no loss, weight or sum"),
        ("EnergyMSELoss() + 3", "3 is no loss"),
        ("2 * 3", "3 is no loss|A product is of a weight and a loss"),
        ("True * EnergyMSELoss()", "A product is of a weight and a loss, got True"),
        ("EnergyMSELoss() * ForceMSELoss()", "A product is of a weight and a loss"),
        ("LinearWeight(start=0.0, end=1.0) * EnergyMSELoss()", "LinearWeight needs 'num_steps'"),
        ("LinearWeight(begin=0.0) * EnergyMSELoss()", "Unknown key 'begin'"),
        (
            "PiecewiseWeight(boundaries=(3,), values=(1.0,)) * EnergyMSELoss()",
            "boundaries need one value more",
        ),
        ("EnergyMSELoss() +", "is no sum of losses"),
        ("ComposedLossFunction([EnergyMSELoss()], weights=[1.0, 2.0])", "1 components and 2 weights"),
        ("ComposedLossFunction([EnergyMSELoss()], weight=[1.0])", "did you mean 'weights'"),
        (f"{ABSOLUTE} + (ForceMSELoss() + StressMSELoss())", "cannot be added"),
        ("-1.0 * EnergyMSELoss() + ForceMSELoss()", "not negative"),
    ],
)
def test_mistakes_are_named(broken, message):
    with pytest.raises(ValueError, match=message):
        from_config("nvalchemi", broken)


def test_what_is_no_spec():
    with pytest.raises(ValueError, match="needs 'cls_path'"):
        from_config("nvalchemi", {"components": []})
    with pytest.raises(ValueError, match="must be a mapping"):
        from_config("nvalchemi", [1.0])
    cosine = {"cls_path": "CosineWeight", "start": 0.0, "end": 1.0, "num_steps": 5}
    spec = {
        **parse("EnergyMSELoss() + ForceMSELoss()"),
        "weights": [cosine, {**cosine, "cls_path": "LinearWeight"}],
    }
    with pytest.raises(ValueError, match="on lines or on cosines"):
        from_config("nvalchemi", spec)
    with pytest.raises(ValueError, match="Unknown schedule 'EnergyMSELoss'"):
        from_config("nvalchemi", {**spec, "weights": [1.0, {"cls_path": "EnergyMSELoss"}]})

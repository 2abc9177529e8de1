"""graph-pes: every loss section of its documentation, and its classes by name."""

import pytest
import torch

from pesloss.losses import PropertyTerm
from pesloss.losses import TotalLoss as OurTotalLoss
from pesloss.recipes import from_config, node
from pesloss.recipes.graph_pes import MAE, ForceRMSE, Huber, PerAtomEnergyLoss, PropertyLoss, TotalLoss
from tests.batches import make
from tests.laws import assert_same, forward, leaves

ENERGY = ("energy", "per_atom", "squared", "root_mean")
FORCES = ("forces", "difference", "squared", "root_mean")
STRESS = ("stress", "difference", "squared", "root_mean")
TENSOR = {"name": "tensor", "rows": "atom", "shape": [9]}

SNIPPETS = {
    "a string": ("loss: +PerAtomEnergyLoss()", {"energy": (1.0, *ENERGY)}),
    "the section alone": ("+PerAtomEnergyLoss()", {"energy": (1.0, *ENERGY)}),
    "an argument": (
        "loss: {+PropertyLoss: {property: stress, metric: MAE}}",
        {"stress": (1.0, "stress", "difference", "absolute", "mean")},
    ),
    "a list": (
        "loss:\n- +PerAtomEnergyLoss()\n- +PropertyLoss: {property: forces, metric: MSE, weight: 10.0}",
        {"energy": (1.0, *ENERGY), "forces": (10.0, "forces", "difference", "squared", "mean")},
    ),
    "two of the quickstart": (
        "loss: [+PerAtomEnergyLoss(), +ForceRMSE()]",
        {"energy": (1.0, *ENERGY), "forces": (1.0, *FORCES)},
    ),
    "a mapping for sweeps": (
        "loss: {energy: +PerAtomEnergyLoss(), forces: {+ForceRMSE: {weight: 5.0}}}",
        {"energy": (1.0, *ENERGY), "forces": (5.0, *FORCES)},
    ),
    "the kitchen sink": (
        """
        CUTOFF: 3.7
        loss:
            energy: +PerAtomEnergyLoss()
            forces: {+ForceRMSE: {weight: 3.0}}
            stress: {+PropertyLoss: {property: stress, metric: RMSE, weight: 10.0}}
        fitting: {pre_fit_model: true}
        """,
        {"energy": (1.0, *ENERGY), "forces": (3.0, *FORCES), "stress": (10.0, *STRESS)},
    ),
    "the realistic one": (
        """
        loss:
            energy: {+PerAtomEnergyLoss: {weight: 10.0, metric: {+Huber: {delta: 0.01}}}}
            forces: +ForceRMSE()
        """,
        {"energy": (10.0, "energy", "per_atom", "huber", "mean", 0.01), "forces": (1.0, *FORCES)},
    ),
    "a tensor": (
        "loss: {tensor: {+PropertyLoss: {property: tensor, metric: RMSE, weight: 1}}}",
        {"tensor": (1, TENSOR, "difference", "squared", "root_mean")},
    ),
    "one property twice": (
        "loss: [+PerAtomEnergyLoss(), {+PropertyLoss: {property: energy, metric: +MAE()}}]",
        {"energy": (1.0, *ENERGY), "energy_2": (1.0, "energy", "difference", "absolute", "mean")},
    ),
    "dotted names": (
        "loss: {+graph_pes.training.loss.TotalLoss: {losses: [+graph_pes.training.loss.ForceRMSE()]}}",
        {"forces": (1.0, *FORCES)},
    ),
    "references": (
        "W: {forces: 7}\nloss: {e: {+PerAtomEnergyLoss: {weight: =../../s/+PropertyLoss/weight}}, "
        "f: {+ForceRMSE: {weight: =/W/forces}}, s: {+PropertyLoss: {property: stress, weight: 3}}}",
        {"e": (3, *ENERGY), "f": (7, *FORCES), "s": (3, *STRESS)},
    ),
}
KEYS = ("property", "residual", "penalty", "reduction")


def said(made):
    """Weight, parts and delta of each term."""
    deltas = made["huber_delta"] or {}
    return {
        name: (
            made["weights"][name],
            *(term[key] for key in KEYS),
            *([deltas[name]] if name in deltas else []),
        )
        for name, term in made["terms"].items()
    }


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_sections_of_its_documentation(snippet):
    text, expected = SNIPPETS[snippet]
    assert said(node("graph_pes", text)) == expected
    assert set(from_config("graph-pes", text).by_name) == set(expected)


def test_weights_are_swept_from_the_command_line():
    text = "loss: {energy: +PerAtomEnergyLoss(), forces: {+ForceRMSE: {weight: 5.0}}}"
    swept = ["loss/forces/+ForceRMSE/weight=0.1", "loss/energy/+PerAtomEnergyLoss/metric=MSE"]
    expected = {"energy": (1.0, *ENERGY[:3], "mean"), "forces": (0.1, *FORCES)}
    assert said(node("graph_pes", text, overrides=swept)) == expected


def test_a_term_is_given_a_shape():
    text = "{+PropertyLoss: {property: quadrupole_of_atoms}}"
    shape = {"quadrupole_of_atoms": {"rows": "atom", "shape": [3, 3]}}
    loss = from_config("graph_pes", text, properties=shape)
    assert loss.required["quadrupole_of_atoms"].shape == (3, 3)
    with pytest.raises(ValueError, match="Give its rows and shape"):
        from_config("graph_pes", text)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("+PerAtomEnergyLos()", "did you mean 'PerAtomEnergyLoss'"),
        ("PerAtomEnergyLoss()", r"has no '\+' in front"),
        ("+PerAtomEnergyLoss", r"must be '\+Name\(\)'"),
        ("{+ForceRMSE: {weigth: 2}}", "ForceRMSE: Unknown key 'weigth'; did you mean 'weight'"),
        ("{+ForceRMSE: 2}", "must be a mapping, got 2"),
        ("{+ForceRMSE: {metric: MAE}}", "Unknown key 'metric'"),
        ("{+PropertyLoss: {metric: MAE}}", "needs a property"),
        ("{+PropertyLoss: {property: energi}}", "did you mean 'energy'"),
        ("{+PropertyLoss: {property: energy, metric: +RMSD()}}", "did you mean 'RMSE'"),
        ("{+PropertyLoss: {property: energy, metric: {+Huber: {dela: 1}}}}", "did you mean 'delta'"),
        (
            "[+PerAtomEnergyLoss(), {+my.module.CustomLoss: {alpha: 0.5}}]",
            r"my.module.CustomLoss.*pesloss.Term",
        ),
        ("W: 1\nloss: {+ForceRMSE: {weight: =/V}}", "leads nowhere. Unknown key 'V'"),
    ],
)
def test_sections_that_do_not_fit(config, message):
    with pytest.raises(ValueError, match=message):
        node("graph_pes", config)


@pytest.mark.parametrize("override", ["loss/forces", "loss/forces/weight/more=1"])
def test_overrides_that_lead_nowhere(override):
    with pytest.raises(ValueError, match="Override"):
        node("graph_pes", "loss: {forces: {weight: 5}}", overrides=[override])


def test_the_names_its_users_know():
    batch = make()
    predictions = leaves(batch)
    named = TotalLoss(
        [
            PerAtomEnergyLoss("RMSE", weight=4),
            ForceRMSE(2),
            PropertyLoss("stress", Huber(0.1)),
            PropertyLoss("energy", MAE),
        ]
    )
    spelt = OurTotalLoss(
        {
            "energy": PropertyTerm("energy", residual="per_atom", reduction="root_mean", weight=4),
            "forces": PropertyTerm("forces", reduction="root_mean", weight=2),
            "stress": PropertyTerm("stress", penalty="huber"),
            "mae": PropertyTerm("energy", penalty="absolute"),
        },
        huber_delta=0.1,
    )
    assert_same(forward(named, predictions, batch), forward(spelt, predictions, batch))
    assert set(named.by_name) == {"energy", "forces", "stress", "energy_2"}
    assert named.required_properties == ["energy", "forces", "stress"]
    assert ForceRMSE().required_properties == ["forces"]


def test_losses_that_standardise_learn_from_the_training_data():
    batch = make()
    loss = TotalLoss({"forces": PropertyLoss("forces", "MAE", residual="standardized")})
    loss.pre_fit(batch)
    label = batch["forces"][~batch["forces"].isnan()]
    torch.testing.assert_close(loss.by_name["forces"].residual.sigma, label.square().mean().sqrt())
    assert torch.isfinite(loss(leaves(batch), batch))

"""Loss sections as NequIP's documentation writes them."""

import pytest
import torch

from pesloss.recipes import from_config, nequip, node
from tests.parity.drawing import Drawing

EFS = ("energy", "forces", "stress")
STRESS = """
_target_: nequip.train.EnergyForceStressLoss
per_atom_energy: true
coeffs: {total_energy: 1.0, forces: 1.0, stress: 2.0}
per_type_forces_coeffs: {H: 5.0, O: 1.0, Cs: 0.5}
ignore_nan: {stress: true}
"""
MANAGER = """
_target_: nequip.train.MetricsManager
metrics:
  - name: per_atom_energy_mse
    field: {_target_: nequip.data.PerAtomModifier, field: total_energy}
    coeff: 1
    metric: {_target_: nequip.train.MeanSquaredError}
  - name: forces_mse
    field: forces
    coeff: 3
    metric: {_target_: nequip.train.MeanSquaredError}
  - {field: forces, metric: {_target_: nequip.train.MaximumAbsoluteError}}
"""
WHOLE = """
monitored_metric: val0_epoch/weighted_sum
force_weight: 3.0
training_module:
  _target_: nequip.train.EMALightningModule
  loss:
    _target_: nequip.train.EnergyForceLoss
    coeffs: {total_energy: 1.0, forces: "${force_weight}"}
  val_metrics:
    _target_: nequip.train.EnergyForceMetrics
    coeffs: {total_energy_rmse: 1.0, forces_rmse: 1.0, total_energy_mae: null}
trainer:
  _target_: lightning.Trainer
  callbacks:
    - {_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: "${monitored_metric}"}
    - {_target_: nequip.train.callbacks.LossCoefficientMonitor, interval: epoch, frequency: 5}
"""
TABLE = """
_target_: nequip.train.EnergyForceMetrics
coeffs: {total_energy_rmse: 1.0, per_atom_energy_rmse: null, forces_rmse: 3.0}
"""
SNIPPETS = {
    "energy only": ("_target_: nequip.train.EnergyOnlyLoss\nper_atom_energy: true", {"energy": 1.0}),
    "energy and forces": ("_target_: nequip.train.EnergyForceLoss", {"energy": 0.5, "forces": 0.5}),
    "stress": (STRESS, {"energy": 0.25, "forces": 0.25, "stress": 0.5}),
    "manager": (MANAGER, {"per_atom_energy_mse": 0.25, "forces_mse": 0.75}),
    "whole config": (WHOLE, {"energy": 0.25, "forces": 0.75}),
    "table of metrics": (TABLE, {"total_energy_rmse": 0.25, "forces_rmse": 0.75}),
}
CALLBACK = "nequip.train.callbacks."
SOFT_ADAPT = {"_target_": f"{CALLBACK}SoftAdapt", "beta": 1.1, "interval": "epoch"}
BUILT = {"_target_": "EnergyForceStressLoss", "coeffs": {"total_energy": 3.0, "forces": 4.0, "stress": 0.5}}


def weights(loss):
    return dict(zip(loss.weighting.names, loss.weighting.prior.tolist(), strict=True))


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_gives_normalized_weights(name):
    config, expected = SNIPPETS[name]
    assert weights(from_config("nequip", config)) == pytest.approx(expected, rel=1e-15)


def test_a_builder_is_the_manager_that_its_documentation_names():
    built = {"_target_": "EnergyForceLoss", "coeffs": {"total_energy": 1, "forces": 3}}
    drawn = Drawing().draw(0)
    losses = [from_config("nequip", config) for config in (built, MANAGER)]
    first, second = (loss(drawn.predictions, drawn.batch) for loss in losses)
    torch.testing.assert_close(first, second)


def test_names_of_terms_are_those_that_nequip_makes_up():
    metrics = [
        {"field": {"_target_": "PerAtomModifier", "field": "total_energy"}, "metric": "HuberLoss"},
        {"field": "forces", "metric": "MeanAbsoluteError"},
        {"field": "stress", "metric": "MeanSquaredError"},
    ]
    metrics = [{**m, "coeff": 1, "metric": {"_target_": m["metric"]}} for m in metrics]
    assert list(from_config("nequip", metrics).by_name) == ["per_atom_E_huber", "F_mae", "stress_mse"]


# Coefficients of NequIP 0.19.1 itself in every epoch, by tests.parity.peers.nequip.soft_adapt
FIRST = (0.4, 0.5333333333333333, 0.06666666666666667)
TRAJECTORIES = {
    2: [
        FIRST,
        FIRST,
        FIRST,
        (0.6131298161475569, 0.3453068397130987, 0.0415633441393444),
        (0.6131298161475569, 0.3453068397130987, 0.0415633441393444),
        (0.8120838860760882, 0.16873215237036532, 0.019183961553546514),
    ],
    1: [FIRST] * 6,
    3: [
        *[FIRST] * 4,
        *[(0.6286417705068693, 0.33178017761067535, 0.03957805188245547)] * 3,
        (0.8419808109549426, 0.14234762751787944, 0.01567156152717798),
    ],
}


@pytest.mark.parametrize("frequency", TRAJECTORIES)
def test_soft_adapt_goes_the_way_of_the_original(frequency):
    callbacks = [{**SOFT_ADAPT, "frequency": frequency, "eps": 1e-8}]
    loss = from_config("nequip", BUILT, callbacks=callbacks, faithful=True)
    drawn = Drawing(labels=EFS).draw(0)
    for epoch, expected in enumerate(TRAJECTORIES[frequency]):
        loss.advance(epoch=epoch, step=epoch)
        shrunk = {name: 0.8**epoch * p for name, p in drawn.predictions.items()}
        found = torch.stack(list(loss.evaluate(shrunk, drawn.batch).weights.values()))
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_soft_adapt_of_every_epoch_moves_only_here():
    callbacks = [{**SOFT_ADAPT, "frequency": 1}]
    drawn = Drawing(labels=EFS).draw(0)
    for faithful in (False, True):
        loss = from_config("nequip", BUILT, callbacks=callbacks, faithful=faithful)
        before = weights(loss)
        for epoch in range(4):
            loss.advance(epoch=epoch, step=epoch)
            shrunk = {name: 0.8**epoch * p for name, p in drawn.predictions.items()}
            after = {name: float(w) for name, w in loss.evaluate(shrunk, drawn.batch).weights.items()}
        assert (after == pytest.approx(before)) == faithful


def test_a_scheduled_loss_is_that_of_its_epoch():
    callbacks = [
        {"_target_": f"{CALLBACK}LossCoefficientScheduler", "schedule": {"2": {"forces_mse": 2.0}}},
    ]
    drawn = Drawing(labels=EFS).draw(0)
    scheduled = from_config("nequip", BUILT, callbacks=callbacks)
    for epoch in (0, 1, 2, 3):
        scheduled.advance(epoch=epoch)
        fixed = from_config("nequip", BUILT, callbacks=callbacks, epoch=epoch)
        torch.testing.assert_close(
            scheduled(drawn.predictions, drawn.batch), fixed(drawn.predictions, drawn.batch)
        )
    assert set(fixed.by_name) == {"forces"}


def test_a_metric_that_is_scheduled_later_is_a_term():
    later = {"field": "stress", "name": "later", "metric": {"_target_": "MeanSquaredError"}}
    schedule = {"_target_": f"{CALLBACK}LossCoefficientScheduler", "schedule": {3: {"later": 1.0}}}
    config = {"_target_": "EnergyForceLoss", "extra_metrics": [later]}
    assert set(from_config("nequip", config).by_name) == {"energy", "forces"}
    assert set(from_config("nequip", config, callbacks=[schedule]).by_name) == {"energy", "forces", "later"}


@pytest.mark.parametrize("name", ["EnergyOnlyLoss", "EnergyForceLoss", "EnergyForceStressLoss"])
def test_builders_exist_by_their_names(name):
    made = getattr(nequip, name)(per_atom_energy=False)
    assert weights(made) == weights(from_config("nequip", {"_target_": name, "per_atom_energy": False}))


def test_the_manager_exists_by_its_name():
    metrics = [{"field": "forces", "coeff": 2, "metric": {"_target_": "MeanSquaredError"}}]
    assert weights(nequip.MetricsManager(metrics, type_names=["H"])) == {"F_mse": 1.0}


def entry(kind="MeanSquaredError", field="forces", *, coeff=1.0, **rest):
    own = {key: rest.pop(key) for key in ("per_type", "per_type_coeffs", "name") if key in rest}
    return [{"field": field, "coeff": coeff, "metric": {"_target_": kind, **rest}, **own}]


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"_target_": "EnergyForcesLoss"}, "did you mean 'EnergyForceLoss'"),
        ({"coeffs": {}}, "has no '_target_'"),
        ({"_target_": "EnergyForceLoss", "coefs": {}}, "did you mean 'coeffs'"),
        (
            {"_target_": "EnergyForceLoss", "coeffs": {"energy": 1, "forces": 1}},
            "did you mean 'total_energy'",
        ),
        ({"_target_": "EnergyForceLoss", "coeffs": {"forces": 1}}, "Unknown key 'total_energy'"),
        ({"_target_": "EnergyForceLoss", "per_type_forces_coeffs": {"H": 0.0}}, "must be positive"),
        ({"_target_": "EnergyForceLoss", "per_type_forces_coeffs": {"Xx": 1.0}}, "Unknown element 'Xx'"),
        (entry("MeanSquareError"), "did you mean 'MeanSquaredError'"),
        (entry(field="force"), "did you mean 'forces'"),
        (entry(field={"_target_": "EdgeLengths"}), "Unknown _target_ 'EdgeLengths'"),
        (entry(field=None), "a metric without a field"),
        (entry("MaximumAbsoluteError"), "the largest error of a batch is no loss"),
        (entry("HuberLoss", detla=1.0), "did you mean 'delta'"),
        (entry("HuberLoss", reduction="median"), "Unknown reduction 'median'"),
        (entry("RootMeanSquaredError", per_type=True), "a root or a sum"),
        (
            entry("StratifiedHuberForceLoss", "stress", delta_dict={0: 1, 1: 2}),
            "strata are of the length of forces",
        ),
        (entry("StratifiedHuberForceLoss", delta_dict={100: 1, 1: 2}), "bounds must rise"),
        (entry() + entry(), "two metrics are called 'F_mse'"),
        (entry(coeff=None), "needs a term"),
        ({"training_module": {"_target_": "nequip.train.X"}}, "has no 'loss'"),
        (
            {
                "training_module": {"_target_": "nequip.train.ConFIGLightningModule", "loss": BUILT},
                "trainer": {
                    "callbacks": [
                        {"_target_": f"{CALLBACK}SoftAdapt", "beta": 1.1, "interval": "epoch", "frequency": 5}
                    ]
                },
            },
            "change by a callback, under a ConFIG module",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(config, match):
    with pytest.raises(ValueError, match=match):
        from_config("nequip", config)


LINEAR = {"_target_": f"{CALLBACK}LinearLossCoefficientScheduler", "transition_epochs": 5}


@pytest.mark.parametrize(
    ("callbacks", "match"),
    [
        (
            [{"_target_": "LossCoefficientScheduler", "schedule": {1: {"force_mse": 1}}}],
            "did you mean 'forces_mse'",
        ),
        ([{"_target_": "LossCoefficientScheduler", "schedule": {1: {"forces_mse": 0}}}], "not 0"),
        ([{"_target_": "LossCoefficientScheduler", "shedule": {}}], "did you mean 'schedule'"),
        ([{**LINEAR, "final_coeffs": {"forces_mse": 1}}], "give all terms"),
        ([SOFT_ADAPT, {**LINEAR, "final_coeffs": {}}], "only one kind of callback"),
    ],
)
def test_callbacks_that_cannot_be_honoured_are_refused(callbacks, match):
    with pytest.raises(ValueError, match=match):
        from_config("nequip", BUILT, callbacks=callbacks)


def test_transitions_may_not_overlap():
    final = {"per_atom_energy_mse": 1, "forces_mse": 1, "stress_mse": 1}
    callbacks = [{**LINEAR, "final_coeffs": final, "start_epoch": start} for start in (0, 3)]
    with pytest.raises(ValueError, match="before the one before it has ended"):
        node("nequip", BUILT, callbacks=callbacks)


def test_weights_that_follow_the_values_have_no_epoch():
    with pytest.raises(ValueError, match="SoftAdapt follows the values"):
        node("nequip", BUILT, callbacks=[SOFT_ADAPT], epoch=3)


@pytest.mark.parametrize("module", ["ConFIGLightningModule", "EMAConFIGLightningModule"])
def test_a_config_module_is_a_weighting(module):
    loss = from_config("nequip", {"_target_": f"nequip.train.{module}", "loss": BUILT})
    assert type(loss.weighting).__name__ == "ConflictFree"
    assert type(from_config("nequip", BUILT).weighting).__name__ == "Fixed"

"""orb-models' losses: whole regressors, with drawn predictions in place of a network."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.parity.cases import case
from tests.parity.drawing import Drawn

REQUIREMENTS = ["orb-models==0.5.5"]

EFS = ("energy", "forces", "stress")
ENERGY = 1.3603868419157275
"""Standard deviation of the energy per atom at the start; forces and stresses start with 1."""
BINS = 50


def regressor(kind: str, heads: Mapping[str, Any], weights: Mapping[str, float], **options: Any) -> Any:
    """A regressor of orb whose normalisers are at rest, in double precision."""
    from orb_models.forcefield.conservative_regressor import ConservativeForcefieldRegressor
    from orb_models.forcefield.direct_regressor import DirectForcefieldRegressor

    model = torch.nn.Identity()
    if kind == "direct":
        return DirectForcefieldRegressor(heads, model, dict(weights)).double()  # pyright: ignore
    needed = {"grad_forces": 1.0, "grad_stress": 1.0, **weights}
    options = {"online_normalisation": False, **options}
    return ConservativeForcefieldRegressor(heads, model, needed, **options).double()  # pyright: ignore


def head(name: str, **options: Any) -> Any:
    """A head of orb; its network is never asked."""
    from orb_models.forcefield import forcefield_heads as heads

    kind = {"energy": "EnergyHead", "forces": "ForceHead", "stress": "StressHead"}.get(name, "ConfidenceHead")
    if kind != "ConfidenceHead":
        options = {"online_normalisation": False, **options}
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return getattr(heads, kind)(latent_dim=1, num_mlp_layers=1, mlp_hidden_dim=1, **options).double()
    finally:
        torch.set_default_dtype(dtype)


def scaled(normalizer: Any, std: float) -> None:
    """What a normaliser has after training."""
    normalizer.bn.running_var.fill_(std**2)


def six(tensors: Tensor) -> Tensor:
    """Symmetric tensors as orb writes them."""
    from orb_models.forcefield.forcefield_utils import torch_full_3x3_to_voigt_6_stress

    return torch_full_3x3_to_voigt_6_stress(tensors)


def loss_of(model: Any, drawn: Drawn, out: Mapping[str, Tensor]) -> Tensor:
    """The loss of a regressor that predicts this."""
    energy_head, batch = model.heads["energy"], drawn.batch
    reference = energy_head.reference(batch["numbers"], drawn.num_atoms)
    structures = SimpleNamespace(
        positions=batch["positions"],
        atomic_numbers=batch["numbers"],
        n_node=drawn.num_atoms,
        fix_atoms=batch.get("fixed"),
        node_targets={"forces": batch["forces"]},
        system_targets={"energy": batch["energy"] + reference, "stress": six(batch["stress"])},
    )
    energy = energy_head.normalize(drawn.predictions["energy"] + reference, structures, online=False)
    model.forward = lambda batch: {"energy": energy, **out}
    return model.loss(structures).loss


def conservative_loss(
    drawn: Drawn,
    heads: Mapping[str, Any] | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    stds: tuple[float, float] = (1.0, 1.0),
    **options: Any,
) -> Tensor:
    """Forces and stress from the gradient of the energy."""
    heads = {"energy": head("energy"), **(heads or {})}
    model = regressor("conservative", heads, weights or {}, **options)
    scaled(model.grad_forces_normalizer, stds[0])
    scaled(model.grad_stress_normalizer, stds[1])
    out = {"grad_forces": drawn.predictions["forces"], "grad_stress": six(drawn.predictions["stress"])}
    extra = {"rotational_grad": "rotation_gradient", "confidence": "confidence", "forces": "direct"}
    out |= {theirs: drawn.predictions[ours] for theirs, ours in extra.items() if ours in drawn.predictions}
    if "direct_stress" in drawn.predictions:
        out["stress"] = six(drawn.predictions["direct_stress"])
    return loss_of(model, drawn, out)


def direct_loss(
    drawn: Drawn,
    *,
    weights: Mapping[str, float] | None = None,
    stds: tuple[float, float, float] = (1.0, 1.0, 1.0),
    loss_type: str = "huber_0.01",
    forces_type: str = "condhuber_0.01",
    confidence: bool = False,
) -> Tensor:
    """Forces and stress from heads of their own."""
    heads = {
        "energy": head("energy", loss_type=loss_type),
        "forces": head("forces", loss_type=forces_type),
        "stress": head("stress", loss_type=loss_type),
    }
    if confidence:
        heads["confidence"] = head("confidence", num_bins=5)
    scaled(heads["forces"].normalizer, stds[0])
    scaled(heads["stress"].diag_normalizer, stds[1])
    scaled(heads["stress"].offdiag_normalizer, stds[2])
    model = regressor("direct", heads, weights or {})
    stress = six(drawn.predictions["stress"])
    out = {
        "forces": drawn.predictions["forces"] / stds[0],
        "stress": torch.cat([stress[:, :3] / stds[1], stress[:, 3:] / stds[2]], 1),
    }
    if confidence:
        out["confidence"] = drawn.predictions["confidence"]
    return loss_of(model, drawn, out)


def config(**keys: Any) -> tuple[str, dict[str, Any]]:
    return "orb", keys


THREE: dict[str, Any] = {"energy": {}, "forces": {}, "stress": {}}
STDS = {"forces": 2.5, "stress": 0.3}
THREE_STDS = {"forces": 2.5, "stress_diagonal": 0.3, "stress_off_diagonal": 0.1}
WEIGHTS = {"energy": 0.5, "grad_forces": 3.0, "grad_stress": 0.1}
DIRECT_WEIGHTS = {"energy": 0.5, "forces": 3.0, "stress": 0.1}


@case(loss="orb_conservative", labels=EFS, symmetric=True)
def conservative(drawn: Drawn) -> Tensor:
    return conservative_loss(drawn)


@case(loss="orb_conservative", labels=EFS, symmetric=True, forces_scale=150.0)
def conservative_strata(drawn: Drawn) -> Tensor:
    return conservative_loss(drawn)


@case(
    config=config(loss_weights=WEIGHTS, forces_loss_type="condhuber_60"),
    options={"stds": STDS},
    labels=EFS,
    symmetric=True,
    forces_scale=400.0,
)
def conservative_normalised(drawn: Drawn) -> Tensor:
    return conservative_loss(drawn, weights=WEIGHTS, stds=(2.5, 0.3), forces_loss_type="condhuber_60")


@case(
    config=config(loss_weights=WEIGHTS, forces_loss_type="mse"),
    options={"stds": STDS},
    labels=EFS,
    symmetric=True,
)
def conservative_mse(drawn: Drawn) -> Tensor:
    return conservative_loss(drawn, weights=WEIGHTS, stds=(2.5, 0.3), forces_loss_type="mse")


@case(config=config(forces_loss_type="mae"), labels=EFS, symmetric=True)
def conservative_mae(drawn: Drawn) -> Tensor:
    return conservative_loss(drawn, forces_loss_type="mae")


def resting(drawn: Drawn) -> dict[str, Tensor]:
    """An energy that no rotation changes has a derivative of zero."""
    return {"rotation_gradient": torch.zeros_like(drawn.batch["stress"])}


@case(
    loss="orb_conservative",
    overrides={
        "terms.equigrad": {"property": {"name": "rotation_gradient", "shape": [3, 3]}, "penalty": "l2_norm"},
        "weights.equigrad": 0.01,
    },
    labels=EFS,
    symmetric=True,
    extra={"rotation_gradient": ("structure", (3, 3))},
    setup=resting,
)
def equigrad(drawn: Drawn) -> Tensor:
    return conservative_loss(drawn, weights={"rotational_grad": 0.01})


@case(
    config=config(heads={"energy": {}, "forces": {"loss_type": "mae"}}, distill_direct_heads=True),
    rename={"direct": "direct_forces"},
    labels=EFS,
    symmetric=True,
    extra={"direct": ("atom", (3,))},
)
def distilled(drawn: Drawn) -> Tensor:
    heads = {"forces": head("forces", loss_type="mae")}
    return conservative_loss(drawn, heads, weights={"forces": 1.0}, distill_direct_heads=True)


@case(
    config=config(heads=THREE, loss_weights={"forces": 2.0, "stress": 0.3}, has_stress=True),
    rename={"direct": "direct_forces"},
    labels=EFS,
    symmetric=True,
    extra={"direct": ("atom", (3,)), "direct_stress": ("structure", (3, 3))},
)
def with_direct_heads(drawn: Drawn) -> Tensor:
    heads = {"forces": head("forces"), "stress": head("stress")}
    return conservative_loss(drawn, heads, weights={"forces": 2.0, "stress": 0.3})


@case(
    config=config(loss_weights={**WEIGHTS, "confidence": 2.0}, heads={"energy": {}, "confidence": {}}),
    labels=EFS,
    symmetric=True,
    forces_scale=0.15,
    rename={"confidence": "forces_confidence"},
    extra={"confidence": ("atom", (BINS,))},
)
def conservative_confidence(drawn: Drawn) -> Tensor:
    weights = {**WEIGHTS, "confidence": 2.0}
    return conservative_loss(drawn, {"confidence": head("confidence")}, weights=weights)


@case(
    config=config(
        heads={"energy": {}, "confidence": {"num_bins": 7, "max_error": 1.2, "binning_scale": "exponential"}}
    ),
    labels=EFS,
    symmetric=True,
    rename={"confidence": "forces_confidence"},
    extra={"confidence": ("atom", (7,))},
)
def confidence_exponential(drawn: Drawn) -> Tensor:
    made = head("confidence", num_bins=7, max_error=1.2, binning_scale="exponential")
    return conservative_loss(drawn, {"confidence": made}, weights={"confidence": 1.0})


@case(
    config=config(heads={"energy": {}, "confidence": {"num_bins": 9, "max_error": 0.8, "hard_clamp": False}}),
    labels=EFS,
    symmetric=True,
    rename={"confidence": "forces_confidence"},
    extra={"confidence": ("atom", (9,))},
)
def confidence_clamped(drawn: Drawn) -> Tensor:
    made = head("confidence", num_bins=9, max_error=0.8, hard_clamp=False)
    return conservative_loss(drawn, {"confidence": made}, weights={"confidence": 1.0})


@case(loss="orb_direct", labels=EFS, symmetric=True, forces_scale=150.0)
def direct(drawn: Drawn) -> Tensor:
    return direct_loss(drawn)


@case(
    config=config(heads=THREE, loss_weights=DIRECT_WEIGHTS),
    options={"stds": THREE_STDS},
    labels=EFS,
    symmetric=True,
    forces_scale=400.0,
)
def direct_normalised(drawn: Drawn) -> Tensor:
    return direct_loss(drawn, weights=DIRECT_WEIGHTS, stds=(2.5, 0.3, 0.1))


@case(
    config=config(
        heads={
            "energy": {"loss_type": "mae"},
            "forces": {"loss_type": "mse"},
            "stress": {"loss_type": "mae"},
            "confidence": {"num_bins": 5},
        }
    ),
    labels=EFS,
    symmetric=True,
    forces_scale=0.15,
    rename={"confidence": "forces_confidence"},
    extra={"confidence": ("atom", (5,))},
)
def direct_confidence(drawn: Drawn) -> Tensor:
    return direct_loss(drawn, loss_type="mae", forces_type="mse", confidence=True)

"""TorchMD-Net's loss from its YAML config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pesloss.names import unknown
from pesloss.recipes.reading import check_keys, mapping_of
from pesloss.recipes.recipe import load

RECIPES = {"mse_loss": "mse", "l1_loss": "mse", "huber_loss": "huber"}
ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "mse_loss": {"reduction": "mean"},
    "l1_loss": {"reduction": "mean"},
    "huber_loss": {"reduction": "mean", "delta": 1.0},
}
REDUCTIONS = ("mean", "sum")
WEIGHTS = {"energy": "y", "forces": "neg_dy"}

_OTHERS = """
load_model conf num_epochs batch_size inference_batch_size lr lr_patience lr_metric lr_min lr_factor
lr_warmup_steps early_stopping_patience early_stopping_monitor reset_trainer weight_decay ngpus
num_nodes precision log_dir splits train_size val_size test_size test_interval save_interval seed
num_workers redirect gradient_clipping remove_ref_energy checkpoint_monitor load_weights dataset
dataset_root dataset_arg coord_files embed_files energy_files force_files dataset_preload_limit
model output_model output_mlp_num_layers prior_model charge spin embedding_dimension num_layers
num_rbf activation rbf_type trainable_rbf neighbor_embedding aggr distance_influence attn_activation
num_heads vector_cutoff equivariance_invariance_group box_vecs static_shapes cutoff_lower
cutoff_upper atom_filter max_z max_num_neighbors standardize reduce_op wandb_use wandb_name
wandb_project wandb_resume_from_id tensorboard_use
"""

DEFAULTS: Mapping[str, Any] = {
    "y_weight": 1.0,
    "neg_dy_weight": 1.0,
    "ema_alpha_y": 1.0,
    "ema_alpha_neg_dy": 1.0,
    "train_loss": "mse_loss",
    "train_loss_arg": None,
}
"""Keys of the loss, and what the command line takes where they are not given."""

OTHERS = _OTHERS.split()
"""Keys of the same config that are not of the loss."""


def node(config: Any) -> dict[str, Any]:
    """The loss of a TorchMD-Net config. ``y`` is the energy, ``neg_dy`` the forces.

    There are forces if the config says ``derivative: true``, or is but the part of the loss and weights them.

    Raises:
        ValueError: for keys, losses or arguments of them that TorchMD-Net does not have.
    """
    given = {
        key.replace("-", "_"): value for key, value in mapping_of("TorchMD-Net's config", config).items()
    }
    check_keys("TorchMD-Net", given, ("derivative", *DEFAULTS, *OTHERS))
    settings = {**DEFAULTS, **given}
    made = _of(settings["train_loss"], settings["train_loss_arg"] or {})
    made["weights"] = {name: float(settings[f"{key}_weight"]) for name, key in WEIGHTS.items()}
    if not given.get("derivative", "neg_dy_weight" in given):
        made["weights"]["forces"] = 0.0
    smoothed = {
        name: alpha
        for name, key in WEIGHTS.items()
        if 0 < (alpha := float(settings[f"ema_alpha_{key}"])) < 1 and made["weights"][name] > 0
    }
    return _smoothed(made, smoothed) if smoothed else made


def _of(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if name not in RECIPES:
        raise ValueError(f"train_loss: {unknown('loss of TorchMD-Net', name, RECIPES)}")
    check_keys(f"train_loss_arg of {name}", arguments, ARGUMENTS[name])
    arguments = {**ARGUMENTS[name], **arguments}
    if arguments["reduction"] not in REDUCTIONS:
        raise ValueError(f"train_loss_arg: {unknown('reduction', arguments['reduction'], REDUCTIONS)}")
    made = load("torchmdnet_mse")
    for term in made["terms"].values():
        term["reduction"] = arguments["reduction"]
        if name == "l1_loss":
            term["penalty"] = "absolute"
    if name == "huber_loss":
        huber = load("torchmdnet_huber")
        made["terms"] = {key: {**term, **huber["terms"][key]} for key, term in made["terms"].items()}
        made["huber_delta"] = arguments["delta"]
    return made


def _smoothed(made: dict[str, Any], alphas: Mapping[str, float]) -> dict[str, Any]:
    """With weights times what an exponential average leaves of a gradient: only its newest part has one."""
    for name, alpha in alphas.items():
        made["weights"][name] *= alpha
    made["original"] = {
        "because": f"It reports exponential averages of the values of {list(alphas)}, of which only the "
        "newest part has a gradient. The weights here are times ema_alpha, which gives the same gradients."
    }
    return made

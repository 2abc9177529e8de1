"""SevenNet's losses from the ``train`` section of its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pesloss.names import unknown
from pesloss.recipes.reading import check_keys, mapping_of
from pesloss.recipes.recipe import load

LOSSES: Mapping[str, str] = {"mse": "sevennet_mse", "huber": "sevennet_huber"}
"""Recipe of each ``loss``."""

DEFAULTS: Mapping[str, float] = {"force_loss_weight": 0.1, "stress_loss_weight": 1e-6}
HUBER_DELTA = 1.0
OWN = ("loss", "loss_param", "use_weight", "is_train_stress", "continue", *DEFAULTS)
_OTHERS = """
    random_seed epoch optimizer optim_param scheduler scheduler_param per_epoch error_record best_metric
    train_shuffle num_workers csv_log use_testset use_modality default_modal device dtype is_ddp ddp_backend
    rank local_rank world_size
"""
OTHERS = tuple(_OTHERS.split())
"""Keys of the section that are not of the loss."""

PENALTY_OF_WEIGHTS = ("fisher_information", "opt_params", "ewc_lambda")
PARAMETERS: Mapping[str, tuple[str, ...]] = {"mse": ("reduction",), "huber": ("reduction", "delta")}


def node(config: Mapping[str, Any]) -> dict[str, Any]:
    """The loss of a SevenNet input.

    Args:
        config: the whole input, or its ``train`` section.

    Raises:
        ValueError: for keys that SevenNet does not have, sums instead of means, and penalties of weights
            (reEWC), which need files with a model's Fisher information.
    """
    train = mapping_of("SevenNet train", config.get("train", config))
    check_keys("SevenNet train", train, (*OWN, *OTHERS))
    name = str(train.get("loss", "mse")).lower()
    if name not in LOSSES:
        raise ValueError(f"SevenNet loss: {unknown('loss', name, LOSSES)}")
    made = load(LOSSES[name])
    made["weights"] = _weights(train)
    if not train.get("is_train_stress", True):
        _leave_out_stress(made)
    parameters = mapping_of("SevenNet loss_param", train.get("loss_param") or {})
    check_keys(f"SevenNet loss_param of {name}", parameters, PARAMETERS[name])
    if parameters.get("reduction", "mean") not in ("mean", "none" if train.get("use_weight") else "mean"):
        raise ValueError(f"SevenNet loss_param: only means are losses here, got {parameters['reduction']!r}.")
    if name == "huber":
        made["huber_delta"] = float(parameters.get("delta", HUBER_DELTA))
    if train.get("use_weight", False):
        _use_weights(made)
    _check_continue(train.get("continue"))
    return made


def _weights(train: Mapping[str, Any]) -> dict[str, float]:
    forces, stress = (float(train.get(key, default)) for key, default in DEFAULTS.items())
    return {"energy": 1.0, "forces": forces, "stress": stress}


def _leave_out_stress(made: dict[str, Any]) -> None:
    for terms in (made["weights"], made["terms"], made["original"]["terms"]):
        del terms["stress"]


def _use_weights(made: dict[str, Any]) -> None:
    """Weights are read, and entries of weight 0 stay in the denominator."""
    diluted = {"_target_": "pesloss.losses.Mean", "denominator": "labelled"}
    made["original"] = {
        "because": "Labels of weight 0 stay in the denominator, which makes a term weaker.",
        "terms": {term: {"reduction": diluted} for term in made["terms"]},
    }


def _check_continue(config: Mapping[str, Any] | None) -> None:
    given = [key for key in PENALTY_OF_WEIGHTS if (config or {}).get(key)]
    if given:
        raise ValueError(
            f"SevenNet continue has {given}: a penalty of the model's weights, from files with a Fisher "
            "information that no section of a loss holds. Leave it out, or add a term of your own for it."
        )

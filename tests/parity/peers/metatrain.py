"""The losses of metatrain: `metatrain.utils.loss`, as its trainers call them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.parity.cases import case
from tests.parity.drawing import Drawn

REQUIREMENTS = ["metatrain==2026.4.1"]

OLD = "metatrain_2026_2_1"
EFV = ("energy", "forces", "virial")
GRID = 24
EXTRA = 6


def prepare(folder: Path) -> None:
    """The last release with `masked_dos`, of which one module is used, beside the newest."""
    options = ["--quiet", "--no-deps", "--target", str(folder / OLD), "metatrain==2026.2.1"]
    subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", *options], check=True)


def expanded(config: Any, targets: Mapping[str, Any]) -> Any:
    """The loss section as metatrain completes it, and the targets it is of."""
    from metatrain.utils.omegaconf import expand_dataset_config, expand_loss_config
    from omegaconf import OmegaConf

    data = expand_dataset_config(OmegaConf.create({"systems": "any.xyz", "targets": dict(targets)}))
    options = {"architecture": {"training": {"loss": config}}, "training_set": data}
    return expand_loss_config(OmegaConf.create(options))["architecture"]["training"]["loss"], data[0].targets


def energy_map(drawn: Drawn, values: Mapping[str, Tensor]) -> Any:
    """Energies with their gradients: positions −forces, strain −virial."""
    from metatensor.torch import Labels, TensorBlock, TensorMap

    num, atoms = len(drawn.num_atoms), drawn.batch["batch"]
    xyz = torch.arange(3)[:, None]
    block = TensorBlock(
        values["energy"][:, None], Labels("system", torch.arange(num)[:, None]), [], Labels.range("energy", 1)
    )
    if "forces" in values:
        within = torch.arange(len(atoms)) - drawn.batch["ptr"][atoms]
        samples = Labels(["sample", "atom"], torch.stack([atoms, within], 1))
        gradient = -values["forces"][..., None]
        block.add_gradient(
            "positions", TensorBlock(gradient, samples, [Labels("xyz", xyz)], Labels.range("energy", 1))
        )
    if "virial" in values:
        samples = Labels("sample", torch.arange(num)[:, None])
        components = [Labels("xyz_1", xyz), Labels("xyz_2", xyz)]
        gradient = -values["virial"][..., None]
        block.add_gradient("strain", TensorBlock(gradient, samples, components, Labels.range("energy", 1)))
    return TensorMap(Labels.single(), [block])


def plain_map(values: Tensor, rows: str, batch: Mapping[str, Tensor]) -> Any:
    """A target without gradients."""
    from metatensor.torch import Labels, TensorBlock, TensorMap

    if rows == "atom":
        atoms = batch["batch"]
        within = torch.arange(len(atoms)) - batch["ptr"][atoms]
        samples = Labels(["system", "atom"], torch.stack([atoms, within], 1))
    else:
        samples = Labels("system", torch.arange(len(values))[:, None])
    values = values.reshape(len(values), -1)
    block = TensorBlock(values, samples, [], Labels.range("property", values.shape[1]))
    return TensorMap(Labels.single(), [block])


def per_atom(maps: dict[str, Any], drawn: Drawn, per_structure: list[str]) -> dict[str, Any]:
    """What the trainers do before they ask for the loss."""
    from metatomic.torch import System
    from metatrain.utils.per_atom import average_by_num_atoms

    ptr, batch = drawn.batch["ptr"].tolist(), drawn.batch
    systems = [
        System(batch["numbers"][a:b].int(), batch["positions"][a:b], cell, torch.ones(3).bool())
        for a, b, cell in zip(ptr, ptr[1:], batch["cell"], strict=False)
    ]
    return average_by_num_atoms(maps, systems, per_structure)


def total(
    drawn: Drawn,
    config: Any,
    targets: Mapping[str, Any],
    masks: Mapping[str, Any] | None = None,
    per_structure: tuple[str, ...] = (),
) -> Tensor:
    """What a trainer makes of the loss section."""
    from metatrain.utils.data.target_info import get_energy_target_info, get_generic_target_info
    from metatrain.utils.loss import LossAggregator

    section, known = expanded(config, targets)
    predictions, labels, infos = {}, {}, {}
    for name, info in known.items():
        if info["quantity"] == "energy":
            its = {"energy": name, "forces": "forces", "virial": "virial"}
            its = {key: value for key, value in its.items() if value in drawn.predictions}
            predictions[name] = energy_map(drawn, {k: drawn.predictions[v] for k, v in its.items()})
            labels[name] = energy_map(drawn, {k: drawn.batch[v] for k, v in its.items()})
            infos[name] = get_energy_target_info(name, info, "forces" in its, "virial" in its)
        else:
            rows = "atom" if info["sample_kind"] == "atom" else "system"
            predictions[name] = plain_map(drawn.predictions[name], rows, drawn.batch)
            labels[name] = plain_map(drawn.batch[name], rows, drawn.batch)
            infos[name] = get_generic_target_info(name, info)
    skipped = list(per_structure)
    predictions, labels = (per_atom(maps, drawn, skipped) for maps in (predictions, labels))
    return LossAggregator(infos, section)(predictions, labels, masks)


FULL = {"energy": {"forces": True, "virial": True}}
LONG = {
    "energy": {
        "type": "mse",
        "weight": 2.0,
        "reduction": "mean",
        "forces": {"type": "mae", "weight": 0.5},
        "virial": {"type": "huber", "delta": 0.3, "weight": 3.0},
    }
}
SHORT = {"energy": {"type": "mse", "forces": "mae", "virial": "huber"}}
EXPLICIT = {
    "energy": {
        "type": "huber",
        "delta": 0.2,
        "gradients": {"positions": "mae", "strain": {"type": "mse", "weight": 0.1, "reduction": "sum"}},
    }
}
SUMS = {"energy": {"type": "mae", "reduction": "sum", "forces": {"type": "mse", "reduction": "sum"}}}
NO_STRAIN = {"energy": {"forces": True, "stress": False}}
ETOT = {"mtt::etot": {"type": "mae", "weight": 1.5, "forces": {"type": "mse", "weight": 10.0}}}
ETOT_TARGETS = {"mtt::etot": {"quantity": "energy", "forces": True, "stress": False}}
OTHERS = {"mtt::gap": "mae", "mtt::dipole": {"type": "huber", "delta": 0.5, "weight": 2.0}, "charge": "mse"}
OTHERS_TARGETS = {
    "mtt::gap": {"quantity": ""},
    "mtt::dipole": {"quantity": "dipole", "type": {"cartesian": {"rank": 1}}},
    "charge": {"quantity": "charge", "sample_kind": "atom"},
}
OTHERS_SHAPES = {
    "mtt::gap": ("structure", ()),
    "mtt::dipole": ("structure", (3,)),
    "charge": ("atom", ()),
}


@case(loss="metatrain_mse", labels=EFV)
def mse(drawn: Drawn) -> Tensor:
    return total(drawn, "mse", FULL)


@case(loss="metatrain_mae", labels=EFV, missing="entries")
def mae(drawn: Drawn) -> Tensor:
    return total(drawn, "mae", FULL)


@case(loss="metatrain_huber", labels=EFV, missing="rows")
def huber(drawn: Drawn) -> Tensor:
    return total(drawn, "huber", FULL)


@case(loss="metatrain_mixed", labels=EFV, missing="rows")
def mixed(drawn: Drawn) -> Tensor:
    return total(drawn, SHORT, FULL)


@case(config=("metatrain", "huber"), options={"targets": FULL}, labels=EFV, missing="entries")
def global_string(drawn: Drawn) -> Tensor:
    return total(drawn, "huber", FULL)


@case(config=("metatrain", {"energy": "mae"}), options={"targets": FULL}, labels=EFV, missing="rows")
def target_string(drawn: Drawn) -> Tensor:
    return total(drawn, {"energy": "mae"}, FULL)


@case(config=("metatrain", LONG), options={"targets": FULL}, labels=EFV, missing="rows")
def forces_and_virial(drawn: Drawn) -> Tensor:
    return total(drawn, LONG, FULL)


@case(config=("metatrain", SHORT), options={"targets": FULL}, labels=EFV, missing="entries")
def shorthand(drawn: Drawn) -> Tensor:
    return total(drawn, SHORT, FULL)


@case(config=("metatrain", EXPLICIT), options={"targets": FULL}, labels=EFV, missing="rows")
def gradients(drawn: Drawn) -> Tensor:
    return total(drawn, EXPLICIT, FULL)


@case(config=("metatrain", SUMS), options={"targets": NO_STRAIN}, missing="rows")
def sums(drawn: Drawn) -> Tensor:
    return total(drawn, SUMS, NO_STRAIN)


@case(
    config=("metatrain", ETOT),
    options={"targets": ETOT_TARGETS},
    labels=("mtt::etot", "forces"),
    shapes={"mtt::etot": ("structure", ())},
    missing="rows",
)
def custom_name(drawn: Drawn) -> Tensor:
    return total(drawn, ETOT, ETOT_TARGETS)


@case(
    config=("metatrain", SUMS),
    options={"targets": NO_STRAIN, "per_structure_targets": ["energy"]},
)
def per_structure(drawn: Drawn) -> Tensor:
    return total(drawn, SUMS, NO_STRAIN, per_structure=("energy",))


@case(
    config=("metatrain", OTHERS),
    options={"targets": OTHERS_TARGETS, "per_structure_targets": ["mtt::gap"]},
    labels=tuple(OTHERS_SHAPES),
    shapes=OTHERS_SHAPES,
    missing="entries",
)
def other_targets(drawn: Drawn) -> Tensor:
    return total(drawn, OTHERS, OTHERS_TARGETS, per_structure=("mtt::gap",))


def some(drawn: Drawn) -> dict[str, Tensor]:
    """A mask of each label, every other of its entries."""
    return {
        f"{name}_mask": (torch.arange(value.numel()) % 3 > 0).reshape(value.shape)
        for name, value in drawn.predictions.items()
    }


def masked(drawn: Drawn, config: Any) -> Tensor:
    """Loss with a mask that has the layout of its target, gradients too."""
    masks = {name: drawn.batch[f"{name}_mask"].double() for name in drawn.predictions}
    return total(drawn, config, FULL, masks={"energy_mask": energy_map(drawn, masks)})


def masked_config(name: str, **options: Any) -> dict[str, Any]:
    spec = {"type": f"masked_{name}", **options}
    return {"energy": {**spec, "forces": {**spec, "weight": 0.1}, "virial": spec}}


MASKED = {name: masked_config(name) for name in ("mse", "mae")} | {"huber": masked_config("huber", delta=0.4)}


@case(config=("metatrain", MASKED["mse"]), options={"targets": FULL}, labels=EFV, missing="rows", setup=some)
def masked_mse(drawn: Drawn) -> Tensor:
    return masked(drawn, MASKED["mse"])


@case(config=("metatrain", MASKED["mae"]), options={"targets": FULL}, labels=EFV, setup=some)
def masked_mae(drawn: Drawn) -> Tensor:
    return masked(drawn, MASKED["mae"])


@case(
    config=("metatrain", MASKED["huber"]), options={"targets": FULL}, labels=EFV, missing="rows", setup=some
)
def masked_huber(drawn: Drawn) -> Tensor:
    return masked(drawn, MASKED["huber"])


ENSEMBLE = {"energy_ensemble": ("structure", (7,))}


def ensemble(drawn: Drawn, name: str) -> Tensor:
    """Score of an ensemble; its trainer compares energies of structures, not per atom."""
    from metatrain.utils.loss import create_loss

    loss = create_loss(name, name="energy", gradient=None, weight=1.0, reduction="mean")
    maps = {name: plain_map(p, "system", drawn.batch) for name, p in drawn.predictions.items()}
    return loss(maps, {"energy": plain_map(drawn.batch["energy"], "system", drawn.batch)})


@case(loss="metatrain_gaussian_nll_ensemble", labels=("energy",), extra=ENSEMBLE)
def gaussian_nll_ensemble(drawn: Drawn) -> Tensor:
    return ensemble(drawn, "gaussian_nll_ensemble")


@case(loss="metatrain_gaussian_crps_ensemble", labels=("energy",), extra=ENSEMBLE)
def gaussian_crps_ensemble(drawn: Drawn) -> Tensor:
    return ensemble(drawn, "gaussian_crps_ensemble")


@case(
    config=("metatrain", {"energy": {"type": "empirical_crps_ensemble"}}),
    options={"targets": {"energy": {"forces": False, "stress": False}}},
    labels=("energy",),
    extra=ENSEMBLE,
)
def empirical_crps_ensemble(drawn: Drawn) -> Tensor:
    return ensemble(drawn, "empirical_crps_ensemble")


DOS_TARGETS = {"mtt::dos": {"quantity": "", "num_subtargets": GRID}}
SHIFT = {"mtt::dos": {"type": "shift_agnostic_mse", "grad_penalty_weight": 1e-2, "int_weight": 0.0}}


def window(drawn: Drawn) -> dict[str, Tensor]:
    """Densities of states that end a little before the grid does, later in some structures than in others."""
    label = drawn.batch["mtt::dos"].clone()
    for structure, row in enumerate(label):
        row[GRID - 2 - structure :] = torch.nan
    return {"mtt::dos": label}


@case(
    config=("metatrain", SHIFT),
    options={"targets": DOS_TARGETS, "per_structure_targets": ["mtt::dos"]},
    labels=("mtt::dos",),
    shapes={"mtt::dos": ("structure", (GRID,))},
    setup=window,
    tolerance=1e-5,
    because="metatrain computes this loss in float32",
)
def shift_agnostic_mse(drawn: Drawn) -> Tensor:
    return total(drawn, SHIFT, DOS_TARGETS, per_structure=("mtt::dos",))


@case(
    config=("metatrain", SHIFT),
    options={"targets": DOS_TARGETS},
    labels=("mtt::dos",),
    shapes={"mtt::dos": ("structure", (GRID,))},
    setup=window,
    tolerance=1e-5,
    because="metatrain computes this loss in float32",
)
def shift_agnostic_mse_per_atom(drawn: Drawn) -> Tensor:
    return total(drawn, SHIFT, DOS_TARGETS)


MASKED_DOS = {"grad_weight": 1e-2, "int_weight": 0.0, "extra_targets": EXTRA}


def padded(drawn: Drawn) -> dict[str, Tensor]:
    """Labels padded in front by as many points as are predicted in excess, with a mask of what is known."""
    label, mask = drawn.batch["mtt::dos"].clone(), torch.ones(len(drawn.num_atoms), GRID + EXTRA).bool()
    label[:, :EXTRA], mask[:, :EXTRA] = 0, False
    for structure, row in enumerate(mask):
        row[GRID + EXTRA - 2 - structure :] = False
    return {"mtt::dos": label, "mtt::dos_mask": mask}


def masked_dos_of(drawn: Drawn, **changes: Any) -> Tensor:
    sys.path.append(os.environ["PESLOSS_PEER"])
    from metatrain_2026_2_1.metatrain.utils.loss import create_loss  # pyright: ignore[reportMissingImports]

    options = {**MASKED_DOS, **changes}
    loss = create_loss("masked_dos", name="mtt::dos", gradient=None, weight=1.0, reduction="mean", **options)
    maps = {
        name: {"mtt::dos": plain_map(values, "system", drawn.batch)}
        for name, values in (("p", drawn.predictions["mtt::dos"]), ("l", drawn.batch["mtt::dos"]))
    }
    mask = plain_map(drawn.batch["mtt::dos_mask"].double(), "system", drawn.batch)
    return loss(maps["p"], maps["l"], {"mtt::dos_mask": mask})


masked_dos_case = partial(
    case,
    options={
        "targets": {"mtt::dos": {"quantity": "", "num_subtargets": GRID + EXTRA}},
        "per_structure_targets": ["mtt::dos"],
    },
    labels=("mtt::dos",),
    shapes={"mtt::dos": ("structure", (GRID + EXTRA,))},
    setup=padded,
)


@masked_dos_case(config=("metatrain", {"mtt::dos": {"type": "masked_dos", **MASKED_DOS, "grad_weight": 0.0}}))
def masked_dos(drawn: Drawn) -> Tensor:
    return masked_dos_of(drawn, grad_weight=0.0)


@masked_dos_case(
    config=("metatrain", {"mtt::dos": {"type": "masked_dos", **MASKED_DOS}}),
    tolerance=1e-5,
    because="metatrain's stencil of the gradient is made in float32",
)
def masked_dos_gradient(drawn: Drawn) -> Tensor:
    return masked_dos_of(drawn)

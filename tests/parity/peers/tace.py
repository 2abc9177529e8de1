"""TACE's losses: `tace.utils.loss`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.parity.cases import case
from tests.parity.drawing import SHAPES, Drawn, Shape

REQUIREMENTS = ["TACE==0.2.4"]

ELEMENTS = torch.tensor([1, 6, 8])
EFS = ("energy", "forces", "stress")
OWN: dict[str, Shape] = {
    "virials": ("structure", (3, 3)),
    "direct_forces": ("atom", (3,)),
    "direct_stress": ("structure", (3, 3)),
    "direct_virials": ("structure", (3, 3)),
    "direct_dipole": ("structure", (3,)),
    "conservative_dipole": ("structure", (3,)),
    "direct_polarizability": ("structure", (3, 3)),
    "conservative_polarizability": ("structure", (3, 3)),
    "born_effective_charges": ("atom", (3, 3)),
    "polarization": ("structure", (3,)),
    "charges": ("atom", ()),
    "final_collinear_magmoms": ("atom", ()),
    "abs_final_collinear_magmoms": ("atom", ()),
    "final_noncollinear_magmoms": ("atom", (3,)),
    "collinear_magnetic_forces": ("atom", ()),
    "noncollinear_magnetic_forces": ("atom", (3,)),
    "total_collinear_magmom": ("structure", ()),
    "total_noncollinear_magmom": ("structure", (3,)),
}
ALL = (*EFS, *OWN)
PER_ATOM_ONLY = ("direct_virials", "polarization")
BOTH = (
    "energy",
    "virials",
    "direct_dipole",
    "conservative_dipole",
    "direct_polarizability",
    "conservative_polarizability",
    "total_collinear_magmom",
    "total_noncollinear_magmom",
)
TENSORS = ("stress", "direct_stress", "virials", "direct_virials")
NOISE: dict[str, Shape] = {"noise_vec": ("atom", (3,))}


def reference(drawn: Drawn) -> dict[str, Tensor]:
    """A batch as TACE makes it: what is missing is zero, and weighs nothing or is masked (stress)."""
    batch = drawn.batch
    ones = torch.ones(len(drawn.num_atoms), dtype=torch.float64)
    made = {key: batch[key] for key in ("ptr", "batch", "positions")}
    made |= {"lattice": batch["cell"], "entropy": batch.get("weight", ones)}
    made["node_attrs"] = (batch["numbers"][:, None] == ELEMENTS).double()
    for name in drawn.predictions.keys() & batch.keys() - NOISE.keys():
        known = drawn.labelled(name)
        first = batch["ptr"][:-1] if (OWN | SHAPES)[name][0] == "atom" else slice(None)
        if name in TENSORS:
            made[f"{name}_mask"] = ~batch[name].isnan()
            known = made[f"{name}_mask"].flatten(1).any(1).double()
        made[name] = drawn.filled(name)
        made[f"{name}_weight"] = batch.get(f"{name}_weight", ones) * known[first]
    return made | {key: batch[key] for key in ("noise_vec", "noise_mask", "dens_batch_mask") if key in batch}


def whole(drawn: Drawn) -> dict[str, Tensor]:
    """TACE knows the atomic labels of a structure or does not, never those of single atoms."""
    index, num = drawn.batch["batch"], len(drawn.num_atoms)
    found = {}
    for name in drawn.predictions:
        if (OWN | SHAPES)[name][0] == "atom":
            lacking = torch.zeros(num, dtype=torch.bool)
            lacking[index[drawn.labelled(name) == 0]] = True
            found[name] = drawn.batch[name].clone()
            found[name][lacking[index]] = torch.nan
    return found


def positive(drawn: Drawn) -> dict[str, Tensor]:
    """Weights without zeros, which change nothing in how TACE counts."""
    return {key: drawn.batch[key].clamp(min=0.3) for key in drawn.batch if key.endswith("weight")}


def property_of(function: str) -> str:
    """The property that a function compares."""
    if function == "conditional_huber_forces":
        return "forces"
    name = function.partition("_")[2].removeprefix("dens_").removeprefix("voigt_")
    return name.removesuffix("_per_atom")


def section(functions: Iterable[str], target: str = "NormalLoss", **options: Any) -> dict[str, Any]:
    """A loss section of TACE with weights that differ from term to term."""
    functions = list(functions)
    return {
        "_target_": f"tace.utils.loss.{target}",
        "loss_property": [property_of(function) for function in functions],
        "loss_function_name": functions,
        "loss_property_weights": [0.5 + (7 * i % 5) for i in range(len(functions))],
        **options,
    }


def total(drawn: Drawn, config: dict[str, Any]) -> Tensor:
    """What TACE makes of a loss section; learned weights have the default precision."""
    import tace.utils.loss

    options = {key: value for key, value in config.items() if key != "_target_"}
    torch.set_default_dtype(torch.float64)
    try:
        loss = getattr(tace.utils.loss, config["_target_"].rpartition(".")[2])(**options)
    finally:
        torch.set_default_dtype(torch.float32)
    return loss(drawn.predictions, reference(drawn))


def family(penalty: str) -> list[str]:
    """All functions of a penalty but those of denoising."""
    names = [name for name in ALL if name not in PER_ATOM_ONLY]
    names += [f"{name}_per_atom" for name in (*BOTH, *PER_ATOM_ONLY)]
    return [f"{penalty}_{name}" for name in [*names, "voigt_stress", "voigt_direct_stress"]]


def huber_kwargs(functions: list[str]) -> list[dict[str, float]]:
    """A delta for each function, all of them different."""
    return [{"huber_delta": 0.1 + 0.03 * i} for i in range(len(functions))]


every = partial(case, labels=ALL, shapes=OWN)
faulty = partial(every, faithful=True, missing="rows", weights="all", setup=whole)
FAMILIES = {name: section(family(name)) for name in ("mse", "mae", "l2mae")}
FAMILIES["huber"] = section(family("huber"), loss_function_kwargs=huber_kwargs(family("huber")))


@case(loss="tace_normal", labels=EFS)
def normal(drawn: Drawn) -> Tensor:
    functions = ["mse_energy_per_atom", "mse_forces", "mse_stress"]
    return total(drawn, section(functions, loss_property_weights=[1.0, 5.0, 0.5]))


@case(loss="tace_normal", labels=EFS, weights="all", setup=positive)
def normal_weights(drawn: Drawn) -> Tensor:
    return normal(drawn)


@case(loss="tace_normal", labels=EFS, faithful=True, missing="rows", weights="all", setup=whole)
def normal_missing(drawn: Drawn) -> Tensor:
    return normal(drawn)


@case(loss="tace_huber", labels=EFS, symmetric=True)
def huber(drawn: Drawn) -> Tensor:
    functions = ["huber_energy_per_atom", "huber_forces", "huber_voigt_stress"]
    return total(drawn, section(functions, loss_property_weights=[1.0, 5.0, 0.5]))


@case(loss="tace_huber", labels=EFS, faithful=True, missing="rows", weights="all", setup=whole)
def huber_weights_inside(drawn: Drawn) -> Tensor:
    return huber(drawn)


@case(loss="tace_l2mae", labels=EFS)
def l2mae(drawn: Drawn) -> Tensor:
    functions = ["mae_energy_per_atom", "l2mae_forces", "l2mae_stress"]
    return total(drawn, section(functions, loss_property_weights=[1.0, 5.0, 0.5]))


@case(loss="tace_l2mae", labels=EFS, faithful=True, missing="rows", weights="all", setup=whole)
def l2mae_missing(drawn: Drawn) -> Tensor:
    return l2mae(drawn)


@case(loss="tace_uncertainty", labels=EFS)
def uncertainty(drawn: Drawn) -> Tensor:
    functions = ["mse_energy_per_atom", "mse_forces", "mse_stress"]
    return total(drawn, section(functions, "UncertaintyLoss", loss_property_weights=[1.0, 1.0, 1.0]))


LEARNED = section(["mae_energy", "huber_forces", "l2mae_stress", "mse_charges"], "UncertaintyLoss")


@case(config=("tace", LEARNED), labels=(*EFS, "charges"))
def uncertainty_mixed(drawn: Drawn) -> Tensor:
    return total(drawn, LEARNED)


@case(loss="tace_conditional_huber", labels=EFS, forces_scale=150)
def conditional_huber(drawn: Drawn) -> Tensor:
    functions = ["huber_energy_per_atom", "conditional_huber_forces", "huber_stress"]
    return total(drawn, section(functions, loss_property_weights=[1.0, 5.0, 0.5]))


@case(
    loss="tace_conditional_huber",
    labels=EFS,
    forces_scale=150,
    faithful=True,
    missing="rows",
    weights="all",
    setup=whole,
)
def conditional_huber_unweighted(drawn: Drawn) -> Tensor:
    return conditional_huber(drawn)


NORMALIZED = section(["mse_energy_per_atom", "mae_forces", "huber_stress"], normalize=True)
NORMALIZED["loss_function_kwargs"] = [None, {}, {"huber_delta": 0.2}]


@case(config=("tace", NORMALIZED), labels=EFS)
def normalized(drawn: Drawn) -> Tensor:
    return total(drawn, NORMALIZED)


ROWS = section(["huber_stress", "l2mae_virials_per_atom", "mae_voigt_direct_stress"])


@case(
    config=("tace", ROWS),
    labels=("stress", "virials", "direct_stress"),
    shapes=OWN,
    symmetric=True,
    missing="rows",
    weights="all",
    ranks=True,
)
def tensors(drawn: Drawn) -> Tensor:
    return total(drawn, ROWS)


COMPONENTS = section(["mse_stress", "huber_virials_per_atom", "mae_direct_stress"])


@case(
    config=("tace", COMPONENTS),
    labels=("stress", "virials", "direct_stress"),
    shapes=OWN,
    missing="entries",
    weights="all",
    ranks=True,
)
def components(drawn: Drawn) -> Tensor:
    return total(drawn, COMPONENTS)


@every(config=("tace", FAMILIES["mse"]), symmetric=True)
def every_mse(drawn: Drawn) -> Tensor:
    return total(drawn, FAMILIES["mse"])


@every(config=("tace", FAMILIES["mae"]), symmetric=True)
def every_mae(drawn: Drawn) -> Tensor:
    return total(drawn, FAMILIES["mae"])


@every(config=("tace", FAMILIES["l2mae"]), symmetric=True)
def every_l2mae(drawn: Drawn) -> Tensor:
    return total(drawn, FAMILIES["l2mae"])


@every(config=("tace", FAMILIES["huber"]), symmetric=True)
def every_huber(drawn: Drawn) -> Tensor:
    return total(drawn, FAMILIES["huber"])


@faulty(config=("tace", FAMILIES["mse"]))
def every_mse_missing(drawn: Drawn) -> Tensor:
    return total(drawn, FAMILIES["mse"])


@faulty(config=("tace", FAMILIES["mae"]))
def every_mae_missing(drawn: Drawn) -> Tensor:
    return total(drawn, FAMILIES["mae"])


@faulty(config=("tace", FAMILIES["l2mae"]))
def every_l2mae_missing(drawn: Drawn) -> Tensor:
    return total(drawn, FAMILIES["l2mae"])


@faulty(config=("tace", FAMILIES["huber"]))
def every_huber_missing(drawn: Drawn) -> Tensor:
    return total(drawn, FAMILIES["huber"])


DENSE = [f"dens_{name}" for name in ("forces", "direct_forces", "stress", "voigt_stress", "direct_stress")]
DENSE_LABELS = {"labels": ("forces", "direct_forces", "stress", "direct_stress"), "extra": NOISE}


def corrupted(drawn: Drawn) -> dict[str, Tensor]:
    """Noise on some atoms of some structures."""
    noisy = torch.tensor([i % 2 == 0 for i in range(len(drawn.num_atoms))])
    mask = noisy[drawn.batch["batch"]] & (torch.arange(len(drawn.batch["batch"])) % 3 > 0)
    noise = 0.1 * drawn.batch["positions"] * mask[:, None]
    return {"noise": noise, "noise_vec": noise, "noise_mask": mask, "dens_batch_mask": noisy}


def dens(penalty: str, functions: Iterable[str] = DENSE, **kwargs: float) -> dict[str, Any]:
    """Losses of structures with noise on some atoms, which is to be predicted instead of their forces."""
    names = [f"{penalty}_{function}" for function in functions]
    ratio = {"dens_loss_ratio": 0.2}
    given = [{**kwargs, **(ratio if name.endswith("forces") else {})} for name in names]
    return section(names, loss_function_kwargs=given)


DENOISING = {name: dens(name) for name in ("mse", "mae", "l2mae")} | {"huber": dens("huber", huber_delta=0.3)}
dens_case = partial(case, faithful=True, shapes=OWN, setup=corrupted, **DENSE_LABELS)


@dens_case(config=("tace", DENOISING["mse"]), weights="all")
def dens_mse(drawn: Drawn) -> Tensor:
    return total(drawn, DENOISING["mse"])


@dens_case(config=("tace", DENOISING["mae"]), weights="all")
def dens_mae(drawn: Drawn) -> Tensor:
    return total(drawn, DENOISING["mae"])


@dens_case(config=("tace", DENOISING["l2mae"]), weights="all")
def dens_l2mae(drawn: Drawn) -> Tensor:
    return total(drawn, DENOISING["l2mae"])


@dens_case(config=("tace", DENOISING["huber"]))
def dens_huber(drawn: Drawn) -> Tensor:
    return total(drawn, DENOISING["huber"])

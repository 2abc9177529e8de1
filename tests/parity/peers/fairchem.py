"""fairchem's losses: tasks of the multi-dataset unit, and the loss of the older trainers."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.parity.cases import case
from tests.parity.drawing import Drawn

REQUIREMENTS = [
    "ase==3.29.0",
    "ase-db-backends",
    "backoff",
    "clusterscope",
    "e3nn",
    "huggingface_hub",
    "hydra-core==1.3.8",
    "monty",
    "numba",
    "nvalchemi-toolkit-ops",
    "orjson",
    "setuptools<81",
    "submitit",
    "torchtnt",
    "tqdm",
    "wandb",
    "websockets",
]

EFS = ("energy", "forces", "stress")
DATASETS = ("omol", "oc20", "omat", "omol", "odac")
"""Dataset of each drawn structure; a rank of two sees some of them, and nobody sees omc."""
LOSSES = "fairchem.core.modules.loss"
SINGLE = "the original's sums of structures are float32"
FREE = {"train_on_free_atoms": True}


def prepare(folder: Path) -> None:
    """The package without its kernels for graphics cards."""
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "fairchem-core==2.24.0"], check=True)


def task(prop: str, loss: str, coefficient: float, rmsd: float, **keys: Any) -> dict[str, Any]:
    """A task as a fairchem config spells it."""
    names = {"reduction": keys.pop("reduction")} if "reduction" in keys else {}
    return {
        "_target_": "fairchem.core.units.mlip_unit.mlip_unit.Task",
        "name": prop,
        "level": "atom" if prop == "forces" else "system",
        "property": prop,
        "loss_fn": {
            "_target_": f"{LOSSES}.DDPMTLoss",
            "loss_fn": {"_target_": f"{LOSSES}.{loss}"},
            "coefficient": coefficient,
            **names,
        },
        "out_spec": {"dim": [{"energy": 1, "forces": 3, "stress": 9}[prop]], "dtype": "float32"},
        "normalizer": {
            "_target_": "fairchem.core.modules.normalization.normalizer.Normalizer",
            "mean": 0.0,
            "rmsd": rmsd,
        },
        "datasets": ["omol"],
        "metrics": ["mae"],
        **keys,
    }


def usual(rmsd: float, *coefficients: float, reduction: str = "mean") -> list[dict[str, Any]]:
    """Energy per atom, lengths of force errors and, with a third coefficient, components of the stress."""
    tasks = [
        task("energy", "PerAtomMAELoss", coefficients[0], rmsd),
        task("forces", "L2NormLoss", coefficients[1], rmsd, reduction=reduction, **FREE),
    ]
    stress = [task("stress", "MAELoss", c, rmsd, reduction="mean") for c in coefficients[2:]]
    return tasks + stress


def of_datasets(prop: str, loss: str, rmsd: float, coefficients: Mapping[str, float]) -> list[dict[str, Any]]:
    """A task for each dataset, as UMA is trained."""
    extra = FREE if prop == "forces" else {}
    return [
        task(prop, loss, coefficient, rmsd, **extra) | {"name": f"{name}_{prop}", "datasets": [name]}
        for name, coefficient in coefficients.items()
    ]


class Structures(dict[str, Any]):
    """A batch as fairchem makes it: entries are attributes too."""

    __getattr__ = dict[str, Any].__getitem__


def references(drawn: Drawn) -> Tensor:
    """Energies of atoms, by atomic number."""
    return torch.arange(20, dtype=torch.float64) * -7.0


def batch_of(drawn: Drawn, tasks: Sequence[Mapping[str, Any]], dtype: torch.dtype) -> Structures:
    """Labels by task, for the structures of its datasets; energies as they were computed."""
    batch, numbers = drawn.batch, drawn.batch["numbers"]
    of = batch.get("origin", torch.zeros(len(drawn.num_atoms), dtype=torch.long))
    names = [DATASETS[i] if "origin" in batch else "omol" for i in of.tolist()]
    made = Structures(
        natoms=drawn.num_atoms,
        pos=batch["positions"],
        fixed=batch.get("fixed", torch.zeros(len(numbers), dtype=torch.bool)).long(),
        batch_full=batch["batch"],
        atomic_numbers_full=numbers,
        dataset_name=names,
    )
    for each in tasks:
        label = batch[each["property"]].flatten(1) if each["property"] != "energy" else batch["energy"]
        if "element_references" in each:
            raw = torch.zeros_like(label).index_add(0, batch["batch"], references(drawn)[numbers])
            label = label + raw
        member = torch.tensor([name in each["datasets"] for name in names])
        member = member[batch["batch"]] if each["level"] == "atom" else member
        made[each["name"]] = torch.where(member.reshape(-1, *[1] * (label.dim() - 1)), label, torch.inf).to(
            dtype
        )
    return made


def total(drawn: Drawn, tasks: Sequence[Mapping[str, Any]], dtype: torch.dtype = torch.float64) -> Tensor:
    """Sum of the tasks' losses; predictions are normalised as the model's are."""
    from fairchem.core.modules import loss as losses
    from fairchem.core.modules.normalization.element_references import ElementReferences
    from fairchem.core.modules.normalization.normalizer import Normalizer
    from fairchem.core.units.mlip_unit.mlip_unit import OutputSpec, Task, compute_loss

    built, predictions = [], {}
    for each in tasks:
        config, loss = each["normalizer"], each["loss_fn"]
        mean, rmsd = (torch.tensor(config[key], dtype=torch.float64) for key in ("mean", "rmsd"))
        inner = getattr(losses, loss["loss_fn"]["_target_"].rpartition(".")[2])()
        options = {key: loss[key] for key in ("reduction", "coefficient") if key in loss}
        references_of = ElementReferences(references(drawn)) if "element_references" in each else None
        built.append(
            Task(
                name=each["name"],
                level=each["level"],
                property=each["property"],
                out_spec=OutputSpec(**each["out_spec"]),
                normalizer=Normalizer(mean.to(dtype), rmsd.to(dtype)),
                datasets=each["datasets"],
                loss_fn=losses.DDPMTLoss(inner, **options),
                element_references=references_of,
                train_on_free_atoms=each.get("train_on_free_atoms", True),
            )
        )
        prediction = drawn.predictions[each["property"]].to(dtype)
        predictions[each["name"]] = {each["property"]: (prediction - mean.to(dtype)) / rmsd.to(dtype)}
    found = compute_loss(built, predictions, batch_of(drawn, tasks, dtype))
    return sum(found.values())  # pyright: ignore[reportReturnType]


def single(drawn: Drawn, tasks: Sequence[Mapping[str, Any]]) -> Tensor:
    """The same in the only precision in which structures can be averaged."""
    return total(drawn, tasks, torch.float32)


def code(name: str) -> int:
    """Code of a dataset in our batches."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")


def some_fixed(drawn: Drawn) -> dict[str, Tensor]:
    """Every third atom is held, and so are all of the last structure."""
    fixed = torch.arange(len(drawn.batch["batch"])) % 3 == 0
    return {"fixed": fixed | (drawn.batch["batch"] == len(drawn.num_atoms) - 1)}


def exact(drawn: Drawn) -> dict[str, Tensor]:
    """Some atoms are held, and the forces of the third structure are predicted without an error."""
    atoms = drawn.batch["batch"] == 2
    with torch.no_grad():
        drawn.predictions["forces"][atoms] = drawn.filled("forces")[atoms]
    return some_fixed(drawn)


def mixed(drawn: Drawn) -> dict[str, Tensor]:
    """Some atoms are held, and the structures are of several datasets."""
    codes = torch.tensor([code(name) for name in DATASETS])
    return {**some_fixed(drawn), "origin": torch.arange(len(DATASETS)), "dataset": codes}


def mixed_exact(drawn: Drawn) -> dict[str, Tensor]:
    return {**mixed(drawn), **exact(drawn)}


UMA = ("omc", "omol", "odac", "oc20", "omat")


def uma() -> list[dict[str, Any]]:
    """The tasks of UMA's conservative training."""
    return [
        *of_datasets("energy", "PerAtomMAELoss", 1.423, dict.fromkeys(UMA, 20)),
        *of_datasets("forces", "L2NormLoss", 1.423, dict.fromkeys(UMA, 2)),
        *of_datasets("stress", "MAELoss", 1.423, dict.fromkeys(("omc", "omat"), 1)),
    ]


def uma_direct_tasks() -> list[dict[str, Any]]:
    """The tasks of UMA's first training, with forces from a head of their own."""
    coefficients = {"omc": 10, "omol": 30, "odac": 10, "oc20": 10, "omat": 10}
    forces = task("forces", "L2NormLoss", 30, 1.423, reduction="per_structure", datasets=list(UMA), **FREE)
    return [*of_datasets("energy", "PerAtomMAELoss", 1.423, coefficients), forces]


def stress_of_uma(drawn: Drawn) -> dict[str, Tensor]:
    """Only omc and omat have stresses."""
    of = torch.tensor([name in ("omc", "omat") for name in DATASETS])
    return {**mixed(drawn), "stress": drawn.batch["stress"].masked_fill(~of[:, None, None], torch.nan)}


FINETUNE = usual(1.0, 20, 2, 1)
FINETUNE[0]["element_references"] = {
    "_target_": "fairchem.core.modules.normalization.element_references.ElementReferences",
    "element_references": {"_target_": "torch.DoubleTensor", "_args_": [[-7.0 * z for z in range(20)]]},
}
SHIFTED = usual(1.5, 10, 20)
SHIFTED[0]["normalizer"]["mean"] = 0.127
ALL_ATOMS = [
    task("energy", "MSELoss", 3, 2.0),
    task("forces", "L2NormLoss", 0.5, 0.7, train_on_free_atoms=False),
    task("stress", "MSELoss", 7, 0.1),
]
SUMS = [
    task("energy", "MAELoss", 3, 2.0, reduction="sum"),
    task("forces", "L2NormLoss", 0.5, 0.7, reduction="sum"),
    task("stress", "MSELoss", 7, 0.1, reduction="sum"),
]
TWO_SETS = [
    *of_datasets("energy", "PerAtomMAELoss", 2.0, {"omol": 10, "oc20": 7}),
    *of_datasets("energy", "MSELoss", 0.5, {"omat": 3}),
    task("forces", "L2NormLoss", 4, 1.3, reduction="mean", datasets=["omol", "odac"], **FREE),
]
OLDER: dict[str, Any] = {
    "outputs": {"energy": {"level": "system"}, "forces": {"level": "atom", "train_on_free_atoms": True}},
    "loss_functions": [
        {"energy": {"fn": "per_atom_mae", "coefficient": 4}},
        {"forces": {"fn": "l2mae", "coefficient": 100}},
        {"stress": {"fn": "mae", "coefficient": 0.5, "reduction": "mean"}},
    ],
}
OLDER_SUM: dict[str, Any] = {
    "outputs": {"forces": {"level": "atom", "train_on_free_atoms": False}},
    "loss_functions": [
        {"energy": {"fn": "mse", "coefficient": 2, "reduction": "sum"}},
        {"forces": {"fn": "mae", "coefficient": 3, "reduction": "sum"}},
    ],
}


def older(drawn: Drawn, config: Mapping[str, Any]) -> Tensor:
    """Losses of the trainers of fairchem 1, which its release 2 keeps."""
    from fairchem.core.modules.loss import DDPLoss

    parts = []
    for entry in config["loss_functions"]:
        for name, options in entry.items():
            loss = DDPLoss(options["fn"], reduction=options.get("reduction"))
            prediction, label = drawn.predictions[name], drawn.batch[name]
            if name != "energy":
                prediction, label = prediction.flatten(1), label.flatten(1)
            if config["outputs"].get(name, {}).get("train_on_free_atoms", False):
                free = ~drawn.batch["fixed"]
                prediction, label = prediction[free], label[free]
            parts.append(options["coefficient"] * loss(prediction, label, drawn.num_atoms))
    return sum(parts)  # pyright: ignore[reportReturnType]


def of_tasks(tasks: Sequence[Mapping[str, Any]], **kwargs: Any) -> Callable[..., Any]:
    return case(config=("fairchem", {"tasks": list(tasks)}), **kwargs)


@case(loss="fairchem_uma_finetune", labels=EFS, missing="entries", setup=some_fixed, ranks=True)
def uma_finetune(drawn: Drawn) -> Tensor:
    return total(drawn, FINETUNE)


@of_tasks(FINETUNE, labels=EFS, missing="rows", setup=some_fixed)
def finetune_tasks(drawn: Drawn) -> Tensor:
    return total(drawn, FINETUNE)


@case(loss="fairchem_uma", labels=EFS, missing="entries", setup=stress_of_uma, ranks=True)
def uma_conservative(drawn: Drawn) -> Tensor:
    return total(drawn, uma())


@of_tasks(uma(), labels=EFS, missing="rows", setup=mixed)
def uma_tasks(drawn: Drawn) -> Tensor:
    return total(drawn, uma())


@case(
    loss="fairchem_uma_direct",
    missing="rows",
    setup=mixed,
    faithful=True,
    tolerance=1e-5,
    because=SINGLE,
)
def uma_direct(drawn: Drawn) -> Tensor:
    return single(drawn, uma_direct_tasks())


@of_tasks(
    uma_direct_tasks(), missing="rows", setup=mixed_exact, faithful=True, tolerance=1e-5, because=SINGLE
)
def uma_direct_tasks_exact(drawn: Drawn) -> Tensor:
    return single(drawn, uma_direct_tasks())


@of_tasks(TWO_SETS, missing="entries", setup=mixed)
def tasks_of_two_sets(drawn: Drawn) -> Tensor:
    return total(drawn, TWO_SETS)


@of_tasks(SHIFTED, setup=some_fixed)
def shifted(drawn: Drawn) -> Tensor:
    return total(drawn, SHIFTED)


@of_tasks(ALL_ATOMS, labels=EFS, missing="entries", setup=some_fixed, ranks=True)
def all_atoms(drawn: Drawn) -> Tensor:
    return total(drawn, ALL_ATOMS)


@of_tasks(SUMS, labels=EFS, missing="entries", setup=some_fixed)
def sums(drawn: Drawn) -> Tensor:
    return total(drawn, SUMS)


@case(loss="fairchem_omol", missing="entries", setup=some_fixed)
def omol(drawn: Drawn) -> Tensor:
    return total(drawn, usual(1.433569, 40, 20))


@case(loss="fairchem_omol_direct", missing="entries", setup=some_fixed, tolerance=1e-5, because=SINGLE)
def omol_direct(drawn: Drawn) -> Tensor:
    return single(drawn, usual(1.433569, 10, 10, reduction="per_structure"))


@case(
    loss="fairchem_omol_direct",
    missing="entries",
    setup=exact,
    faithful=True,
    ranks=True,
    tolerance=1e-5,
    because=SINGLE,
)
def omol_direct_exact(drawn: Drawn) -> Tensor:
    return single(drawn, usual(1.433569, 10, 10, reduction="per_structure"))


@case(loss="fairchem_escaip_mptrj", setup=some_fixed, tolerance=1e-5, because=SINGLE)
def escaip_mptrj(drawn: Drawn) -> Tensor:
    return single(drawn, usual(0.8001058101654053, 10, 40, reduction="per_structure"))


@case(loss="fairchem_escaip_mptrj_finetune", labels=EFS, setup=some_fixed, tolerance=1e-5, because=SINGLE)
def escaip_mptrj_finetune(drawn: Drawn) -> Tensor:
    return single(drawn, usual(0.8001058101654053, 10, 10, 100, reduction="per_structure"))


@case(loss="fairchem_escaip_oc20", setup=some_fixed, tolerance=1e-5, because=SINGLE)
def escaip_oc20(drawn: Drawn) -> Tensor:
    return single(drawn, usual(1.423, 20, 60, reduction="per_structure"))


@case(loss="fairchem_escaip_spice", setup=some_fixed, tolerance=1e-5, because=SINGLE)
def escaip_spice(drawn: Drawn) -> Tensor:
    return single(drawn, usual(1.0757999822144813, 10, 20, reduction="per_structure"))


@case(config=("fairchem", OLDER), labels=EFS, setup=some_fixed, ranks=True)
def older_means(drawn: Drawn) -> Tensor:
    return older(drawn, OLDER)


@case(loss="fairchem_oc20", setup=some_fixed)
def older_oc20(drawn: Drawn) -> Tensor:
    functions = [
        {"energy": {"fn": "mae", "coefficient": 1}},
        {"forces": {"fn": "l2mae", "coefficient": 100}},
    ]
    return older(drawn, {"outputs": OLDER["outputs"], "loss_functions": functions})


@case(config=("fairchem", OLDER_SUM))
def older_sums(drawn: Drawn) -> Tensor:
    return older(drawn, OLDER_SUM)

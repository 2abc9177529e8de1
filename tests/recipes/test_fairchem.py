"""fairchem: task lists of its configs, the loss functions of its older trainers, and its classes by name."""

import pytest
import torch
import yaml

import pesloss
from pesloss.losses import PropertyTerm, TotalLoss, group_code
from pesloss.recipes import Recipe, from_config, load, node
from pesloss.recipes.fairchem import (
    DDPLoss,
    DDPMTLoss,
    L2NormLoss,
    MAELoss,
    MSELoss,
    OfTask,
    PerAtomMAELoss,
)
from tests.batches import make, take
from tests.laws import assert_same, forward, leaves

CORE = "fairchem.core"
TASK = f"""
- _target_: {CORE}.units.mlip_unit.mlip_unit.Task
  name: {{name}}
  level: {{level}}
  property: {{property}}
  {{free}}
  loss_fn:
    _target_: {CORE}.modules.loss.DDPMTLoss
    loss_fn:
      _target_: {CORE}.modules.loss.{{loss}}
    {{reduction}}
    coefficient: {{coefficient}}
  out_spec:
    dim: {{dim}}
    dtype: float32
  normalizer:
    _target_: {CORE}.modules.normalization.normalizer.Normalizer
    mean: 0.0
    rmsd: {{rmsd}}
  {{references}}
  datasets:
    - {{dataset}}
  metrics:
    - mae
"""
FREE = "train_on_free_atoms: True\n  eval_on_free_atoms: True"
REFERENCES = f"""element_references:
    _target_: {CORE}.modules.normalization.element_references.ElementReferences
    element_references:
      _target_: torch.DoubleTensor
      _args_:
        - ${{element_refs.omol_elem_refs}}"""
ENERGY = {
    "property": "energy",
    "level": "system",
    "loss": "PerAtomMAELoss",
    "dim": "[1]",
    "references": REFERENCES,
}
FORCES = {
    "property": "forces",
    "level": "atom",
    "loss": "L2NormLoss",
    "dim": "[3]",
    "free": FREE,
    "reduction": "reduction: mean",
}
STRESS = {
    "property": "stress",
    "level": "system",
    "loss": "MAELoss",
    "dim": "[1, 9]",
    "reduction": "reduction: mean",
}
KINDS = {"energy": ENERGY, "forces": FORCES, "stress": STRESS}


def task(prop, coefficient, *, dataset="omol", name=None, rmsd="${normalizer_rmsd}", **keys):
    """A task as the configs of fairchem spell it."""
    blank = {"free": "", "reduction": "", "references": ""}
    name = prop if name is None else name
    values = {**blank, **KINDS[prop], "name": name, "coefficient": coefficient, "dataset": dataset, **keys}
    return "\n".join(line for line in TASK.format(rmsd=rmsd, **values).splitlines() if line.strip())


UMA_SETS = ("omc", "omol", "odac", "oc20", "omat")
UMA = "\n".join(
    [task("energy", "${energy_coef}", dataset=name, name=f"{name}_energy") for name in UMA_SETS]
    + [task("forces", "${force_coef}", dataset=name, name=f"{name}_forces") for name in UMA_SETS]
    + [task("stress", "${stress_coef}", dataset=name, name=f"{name}_stress") for name in ("omc", "omat")]
)
FINETUNE = "\n".join(
    [
        "dataset_name: ??\nelem_refs: ??\nnormalizer_rmsd: 1.5",
        "regress_stress: True\npass_through_head_outputs: True",
        "heads:\n  efs:\n    module: fairchem.core.models.uma.escn_md.MLP_EFS_Head",
        "tasks_list:",
        task("energy", 20, rmsd="${data.normalizer_rmsd}", dataset="${data.dataset_name}"),
        task("forces", 2, rmsd="${data.normalizer_rmsd}", dataset="${data.dataset_name}"),
        task("stress", 1, rmsd="${data.normalizer_rmsd}", dataset="${data.dataset_name}"),
    ]
)
OMOL = "\n".join(
    [
        task("energy", 10, rmsd=1.433569),
        task("forces", 10, rmsd=1.433569, reduction="reduction: per_structure"),
    ]
)
OC20 = """
outputs:
  energy:
    shape: 1
    level: system
  forces:
    irrep_dim: 1
    level: atom
    train_on_free_atoms: True
    eval_on_free_atoms: True
loss_functions:
  - energy:
      fn: mae
      coefficient: 1
  - forces:
      fn: l2mae
      coefficient: 100
"""


def weights(loss):
    return dict(zip(loss.weighting.names, loss.weighting.prior.tolist(), strict=True))


def of_sets():
    """A batch whose structures are of datasets of UMA."""
    batch = make(weights=False)
    codes = [group_code(UMA_SETS[i % 4]) for i in range(len(batch["dataset"]))]
    return {**batch, "dataset": torch.tensor(codes)}


def same(loss, other, batch):
    assert_same(forward(loss, leaves(batch), batch), forward(other, leaves(batch), batch))


def recipe(name, **options):
    return pesloss.build({**load(name), **options})


def test_uma_tasks_are_its_recipe():
    loss = from_config("fairchem", UMA, normalizer_rmsd=1.423, energy_coef=20, force_coef=2, stress_coef=1)
    assert isinstance(loss, Recipe)
    assert weights(loss)["omc_energy"] == 20 and weights(loss)["odac_forces"] == 2
    assert len(loss.terms) == 12
    batch = of_sets()
    # only two of the datasets have stresses
    with_stress = torch.isin(batch["dataset"], torch.tensor([group_code("omc"), group_code("omat")]))
    batch["stress"] = batch["stress"].masked_fill(~with_stress[:, None, None], torch.nan)
    same(loss, recipe("fairchem_uma"), batch)


def test_the_finetuning_template_is_its_recipe():
    loss = from_config("fairchem", FINETUNE)
    scaled = load("fairchem_uma_finetune")
    for term in scaled["terms"].values():
        term["residual"]["scale"] = 1.5
    same(loss, pesloss.build(scaled), make())
    assert weights(loss) == {"energy": 20.0, "forces": 2.0, "stress": 1.0}


def test_it_may_be_the_whole_config():
    whole = {"job": {"run_name": "any"}, "data": yaml.safe_load(FINETUNE)}
    assert node("fairchem", whole) == node("fairchem", FINETUNE)


def test_tasks_with_means_of_structures_are_their_recipe():
    loss = from_config("fairchem", OMOL, faithful=True)
    same(loss, recipe("fairchem_omol_direct", faithful=True), make())
    assert "number of structures" in node("fairchem", OMOL)["original"]["because"]


def test_the_older_config_is_its_recipe():
    same(from_config("fairchem", OC20), recipe("fairchem_oc20"), make())


def test_older_targets_can_be_normalised():
    loss = from_config("fairchem", OC20, scales={"energy": 2.9, "forces": 2.887})
    half = from_config("fairchem", OC20)
    batch = make()
    values = loss.evaluate(leaves(batch), batch).values
    plain = half.evaluate(leaves(batch), batch).values
    torch.testing.assert_close(values["forces"] * 2.887, plain["forces"])
    torch.testing.assert_close(values["energy"] * 2.9, plain["energy"])


def test_a_dataset_without_structures_counts_for_nothing():
    loss = from_config("fairchem", UMA, normalizer_rmsd=1.423, energy_coef=20, force_coef=2, stress_coef=1)
    batch = of_sets()
    only = [i for i in range(8) if i % 4 == 1]  # of omol
    part = take(batch, only)
    values = loss.evaluate(leaves(part), part).values
    assert values["omol_energy"] > 0
    assert all(value == 0 for name, value in values.items() if not name.startswith("omol"))


def test_tasks_for_inference_are_left_out():
    lists = OMOL.replace("metrics:", "inference_only: true\n  metrics:", 1)
    assert list(from_config("fairchem", lists).terms) == ["forces"]


def test_a_property_of_ones_own():
    own = task("stress", 3, rmsd=2.0).replace("property: stress", "property: band_gap")
    (term,) = node("fairchem", own.replace("[1, 9]", "[1]"))["terms"].values()
    assert term["property"] == {"name": "band_gap", "rows": "structure", "shape": []}


def test_classes_by_name():
    terms = {
        "energy": DDPMTLoss(PerAtomMAELoss(), coefficient=20),
        "forces": DDPMTLoss(L2NormLoss(), "per_structure", 2),
        "stress": DDPMTLoss(MAELoss(), reduction="sum"),
        "dipole": DDPLoss("mse", None),
    }
    loss = TotalLoss(terms)
    assert weights(loss) == {"energy": 20, "forces": 2, "stress": 1, "dipole": 1}
    assert MSELoss() == {"penalty": "squared"}
    assert type(loss.terms["forces"].penalty).__name__ == "L2Norm"
    assert type(loss.terms["stress"].reduction).__name__ == "Sum"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            OMOL.replace("coefficient:", "coeficient:", 1),
            "Unknown key 'coeficient'; did you mean 'coefficient'",
        ),
        (
            OMOL.replace("L2NormLoss", "L2NormLos"),
            "Unknown loss function 'L2NormLos'; did you mean 'L2NormLoss'",
        ),
        (OMOL.replace("per_structure", "structure"), "Unknown reduction 'structure'"),
        (OMOL.replace("level: atom", "level: atoms"), "Unknown level 'atoms'; did you mean 'atom'"),
        (
            OMOL.replace("rmsd:", "rmsf:", 1),
            r"tasks\[0\].normalizer: Unknown key 'rmsf'; did you mean 'rmsd'",
        ),
        (OMOL.replace("coefficient: 10", "coefficient: much", 1), "must be a number, got 'much'"),
        (OMOL.replace("name: forces", "name: energy"), "two tasks 'energy'"),
        (OMOL.replace("level: system", "datasets: [any]", 1), "needs 'level'"),
        (OMOL.replace("1.433569", "${rmsd_of_all}", 1), "'rmsd_of_all'.*give it by name"),
        (OMOL.replace("datasets:\n    - omol", "metrics: []", 1), "needs 'datasets'"),
        ("tasks: 3", "must be a list of tasks"),
        ("runner: {}", "has 'tasks', 'tasks_list' or 'loss_functions'"),
        (OC20.replace("fn: mae", "fn: maee"), "Unknown loss function 'maee'; did you mean 'mae'"),
        (OC20.replace("coefficient: 1\n", "weight: 1\n"), "Unknown key 'weight'"),
        (OC20.replace("      fn: mae\n", ""), "needs 'fn'"),
        (OC20.replace("- energy:", "- enrgy:"), "Unknown property 'enrgy'; did you mean 'energy'"),
        (OC20.replace("level: atom", "levels: atom"), "outputs.forces: Unknown key 'levels'"),
    ],
)
def test_mistakes_are_named(broken, message):
    with pytest.raises(ValueError, match=message):
        from_config("fairchem", broken)


def test_options_that_do_not_belong():
    with pytest.raises(ValueError, match="scales are of 'loss_functions'"):
        from_config("fairchem", OMOL, scales={"energy": 2.0})
    with pytest.raises(ValueError, match="scales: Unknown key 'enegy'"):
        from_config("fairchem", OC20, scales={"enegy": 2.0})
    with pytest.raises(ValueError, match="Unknown reduction 'per_structure'"):
        DDPLoss("mae", "per_structure")
    with pytest.raises(ValueError, match="Unknown loss function 'l3'"):
        DDPLoss("l3", "mean")


def test_rows_of_a_task():
    batch = make()
    mask = OfTask(["a"], free_atoms=True)
    term = PropertyTerm("forces", mask=mask)
    of_a = batch["dataset"] == group_code("a")
    torch.testing.assert_close(term.mask(batch), of_a[batch["batch"]] & ~batch["fixed"])
    assert term.mask.formula() == "of atoms that are not fixed of datasets a"
    assert OfTask(["a", "b"]).formula() == "of datasets a, b"
    with pytest.raises(KeyError, match="need 'dataset'"):
        mask({key: value for key, value in batch.items() if key != "dataset"})
    with pytest.raises(ValueError, match="chooses atoms"):
        PropertyTerm("energy", mask=OfTask(["a"], free_atoms=True))
    with pytest.raises(ValueError, match="at least one dataset"):
        OfTask([])

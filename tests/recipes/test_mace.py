"""Command lines and configs as MACE's documentation and its users write them."""

import pytest
import torch

from pesloss.losses import PropertyTerm, group_code
from pesloss.recipes import from_config, load, mace, node
from pesloss.recipes.mace_flags import settings
from tests.parity.drawing import Drawing

EFS = ("energy", "forces", "stress")
FROM_SCRATCH = """
    mace_run_train \\
        --name="MACE_model" --train_file="train.xyz" --valid_fraction=0.05 --test_file="test.xyz" \\
        --config_type_weights='{"Default":1.0}' \\
        --E0s='{1:-13.663, 6:-1029.28, 7:-1484.118, 8:-2042.033}' \\
        --model="MACE" --hidden_irreps='128x0e + 128x1o' --r_max=5.0 --batch_size=10 \\
        --max_num_epochs=1500 --swa --start_swa=1200 \\
        --ema --ema_decay=0.99 --amsgrad --restart_latest --device=cuda \\
"""
FINE_TUNED = """
    mace_run_train --name="MACE" --foundation_model="small" --multiheads_finetuning=False \\
        --train_file="train.xyz" --energy_weight=10.0 --forces_weight=10.0 --E0s="estimated" --lr=0.001 \\
        --weight_decay=0.0 --scaling="rms_forces_scaling" --max_num_epochs=6 --ema --clip_grad=1.0 --seed=3
"""
POLAR = """
    mace_run_train --name="polar" --model="PolarMACE" --foundation_model="polar-1-m" --loss="weighted" \\
      --stress_weight=0.0 --force_mh_ft_lr=True --default_dtype="float64" --device="cpu"
"""
ON_RANKS = "torchrun --nproc_per_node=2 mace_run_train --loss universal --stress_weight 10 --distributed"
MODULE = "python -m mace.cli.run_train --loss=l1l2energyforces --forces_weight=50"
YAML = (
    "name: any\nloss: huber\nhuber_delta: 0.02\nenergy_weight: 1\nforces_weight: 100\nswa: false\nseed: 1\n"
)
SNIPPETS = {
    "from scratch": (FROM_SCRATCH, {"energy": 1.0, "forces": 100.0}),
    "fine-tuned": (FINE_TUNED, {"energy": 10.0, "forces": 10.0}),
    "polar": (POLAR, {"energy": 1.0, "forces": 100.0}),
    "on ranks": (ON_RANKS, {"energy": 1.0, "forces": 100.0, "stress": 10.0}),
    "module": (MODULE, {"energy": 1.0, "forces": 50.0}),
    "YAML": (YAML, {"energy": 1.0, "forces": 100.0, "stress": 1.0}),
    "nothing": ([], {"energy": 1.0, "forces": 100.0}),
}


def weights(loss):
    return dict(zip(loss.weighting.names, loss.weighting.prior.tolist(), strict=True))


def total(loss, labels=EFS, epoch=0, **drawing):
    drawn = Drawing(labels=labels, **drawing).draw(0)
    loss.advance(epoch=epoch)
    return loss(drawn.predictions, drawn.batch)


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_gives_its_weights(name):
    config, expected = SNIPPETS[name]
    assert weights(from_config("mace", config)) == expected


def test_flags_are_the_same_in_every_form():
    text = "--loss=stress --energy_weight 3 --swa --stage_two_energy_weight=30"
    mapping = {"loss": "stress", "energy_weight": 3, "swa": True, "swa_energy_weight": 30.0}
    made = [
        node("mace", text),
        node("mace", text.split()),
        node("mace", mapping),
        node("mace", "loss: stress\nenergy_weight: 3\nstage_two: true\nstage_two_energy_weight: 30\n"),
    ]
    assert made[0] == made[1] == made[2] == made[3]


def test_older_and_newer_names_of_the_second_stage_are_one():
    newer = "--stage_two --start_stage_two=3 --stage_two_forces_weight=2 --stage_two_lr=0.1"
    assert settings(newer) == settings(
        newer.replace("start_stage_two", "start_swa").replace("stage_two", "swa")
    )


def test_a_flag_of_several_values_takes_them_all():
    assert settings("--wandb_log_hypers lr seed --wandb")["wandb_log_hypers"] == ["lr", "seed"]


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ("--loss=weighted --force_weight=3", "did you mean 'forces_weight'"),
        ("--loss=hubr", "did you mean 'huber'"),
        ("--energy_weight --loss=huber", "takes one value, got \\[\\]"),
        ("--energy_weight 1 2", "takes one value, got \\['1', '2'\\]"),
        ("energy_weight=3 --loss=huber", "begins with --, got 'energy_weight=3'"),
        ("--loss=forces_only --swa", "no second stage"),
        ("--loss=dipole --swa", "no second stage"),
        ("--config_type_weights=surface", "must be a dictionary"),
        ({"heads": {"a": {"config_type_weights": {"x": 2}}}}, "head 'a' has config_type_weights of its own"),
        ("--config=train.yaml --device=cuda", "a file that may say more of the loss"),
        ("just words", "must be a mapping"),
    ],
)
def test_what_mace_would_not_take_is_refused(config, match):
    with pytest.raises(ValueError, match=match):
        from_config("mace", config)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ("--loss=weighted --stress_weight=3", "stress_weight=3 acts on nothing"),
        ("--loss=weighted --huber_delta=0.1", "huber_delta=0.1 acts on nothing"),
        ("--loss=stress --swa_stress_weight=3", "without --swa"),
    ],
)
def test_a_weight_that_acts_on_nothing_is_told(config, match):
    with pytest.warns(UserWarning, match=match):
        from_config("mace", config)


def test_weights_of_config_types_and_heads_act():
    flags = ["--config_type_weights={'Default': 2, 'surface': 3.0, 'bulk': 1}", "--weight_pt_head=0.5"]
    loss = from_config("mace", flags)
    assert loss.group_weights.keys() == {"config_type", "dataset"}
    drawn = Drawing().draw(0)
    plain = from_config("mace", [])(drawn.predictions, drawn.batch)
    groups = {
        "config_type": torch.full((5,), group_code("surface")),
        "dataset": torch.full((5,), group_code("pt_head")),
    }
    torch.testing.assert_close(loss(drawn.predictions, {**drawn.batch, **groups}), 1.5 * plain)


@pytest.mark.parametrize("loss", ["weighted", "ef", "stress", "huber", "universal", "l1l2energyforces"])
@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("epoch", [0, 3, 4, 9])
def test_a_scheduled_loss_is_that_of_its_epoch(loss, faithful, epoch):
    flags = f"--loss={loss} --swa --start_swa=4 --energy_weight=0 --swa_forces_weight=0"
    scheduled = from_config("mace", flags, faithful=faithful)
    fixed = from_config("mace", flags, faithful=faithful, epoch=epoch)
    torch.testing.assert_close(total(scheduled, epoch=epoch), total(fixed))


def test_the_second_stage_starts_after_three_quarters():
    loss = from_config("mace", "--swa --max_num_epochs=10")  # 10 // 4 * 3
    first, second = (total(loss, epoch=epoch).detach() for epoch in (5, 6))
    assert second > 2 * first


def test_the_recipe_of_the_second_stage_is_what_the_flags_say():
    flags = from_config("mace", "--loss=stress --swa")
    made = load("mace_stage_two")
    assert weights(flags) == made["weights"]
    assert {term: dict(points) for term, points in flags.weighting.factors.items()} == made["weighting"][
        "factors"
    ]


def test_the_second_stage_of_the_original_forgets_the_functional():
    flags = "--loss=huber --swa --start_swa=4"
    faithful = from_config("mace", flags, faithful=True, epoch=4)
    assert set(faithful.required) == {"energy", "forces"}
    assert set(from_config("mace", flags, epoch=4).required) == set(EFS)


@pytest.mark.parametrize("name", ["mace_huber", "mace_dipole", "mace_l1l2"])
def test_only_the_original_trains_missing_labels_toward_zero(name):
    term = {"mace_dipole": "dipole"}.get(name, "forces")
    for faithful in (False, True):
        loss = from_config("mace", {"loss": _flag(name)}, faithful=faithful)
        drawn = Drawing(labels=tuple(loss.required), missing="rows").draw(1)
        drawn.batch[term][0] = torch.nan
        loss(drawn.predictions, drawn.batch).backward()
        assert bool(drawn.predictions[term].grad[0].any()) == faithful


def _flag(recipe):
    return next(flag for flag, name in mace.LOSSES.items() if name == recipe)


NAMED = {
    "WeightedEnergyForcesLoss": "mace_weighted",
    "WeightedForcesLoss": "mace_forces_only",
    "WeightedEnergyForcesStressLoss": "mace_stress",
    "WeightedEnergyForcesVirialsLoss": "mace_virials",
    "WeightedHuberEnergyForcesStressLoss": "mace_huber",
    "UniversalLoss": "mace_universal",
    "WeightedEnergyForcesL1L2Loss": "mace_l1l2",
    "DipoleSingleLoss": "mace_dipole",
    "DipolePolarLoss": "mace_dipole_polar",
    "WeightedEnergyForcesDipoleLoss": "mace_energy_forces_dipole",
}


@pytest.mark.parametrize("name", NAMED)
def test_a_class_of_mace_is_its_recipe(name):
    made = load(NAMED[name])
    loss = getattr(mace, name)(*made["weights"].values())
    assert weights(loss) == {
        term: weight * made["terms"][term].get("weight", 1) for term, weight in made["weights"].items()
    }
    assert loss.project == "mace"
    assert not loss.faithful


def test_classes_of_mace_take_a_delta():
    assert float(mace.UniversalLoss(huber_delta=0.3, faithful=True).by_name["forces"].penalty.delta) == 0.3


def test_a_missing_label_that_is_zero_says_so():
    term = PropertyTerm("energy", residual=mace.MissingAsZero("per_atom"))
    assert "a missing label is 0" in term.residual.formula("energy")
    assert term.residual.unit("eV") == PropertyTerm("energy", residual="per_atom").residual.unit("eV")

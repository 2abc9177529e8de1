"""Ranks 22 and 23: lists, typos and unclear errors of configs, and targets that run a stranger's code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from pesloss import load
from tests.broken.doors import building, loss, program, raising
from tests.broken.registry import Said, broken


@broken(22, "fairchem#1386", "raised", r"No '0' in loss\.terms\. Known: energy, forces, stress")
def a_term_by_its_number(folder: Path) -> Said:
    return program(folder, "loss=normal", "loss.terms.0.weight=10")


@broken(
    22,
    "hydra#1365",
    "raised",
    r"No 'force' in loss\.weights; did you mean 'forces'\? Known: energy, forces, stress",
)
def a_misspelt_key(folder: Path) -> Said:
    return program(folder, "loss=normal", "loss.weights.force=10")


@broken(22, "hydra#2039", "raised", r"No 'nromal' in the group 'loss'; did you mean 'normal'")
def a_misspelt_option(folder: Path) -> Said:
    return program(folder, "loss=nromal")


@broken(22, "hydra#620", "raised", r"No 'losses' in the config; did you mean 'loss'")
def a_misspelt_group(folder: Path) -> Said:
    return program(folder, "losses=normal")


@broken(
    22,
    "hydra#231",
    "raised",
    r"is not an override .* It reads key=value; a value with spaces, commas or brackets stands in quotes",
)
def a_value_with_a_space(folder: Path) -> Said:
    return program(folder, "name=two words, [one")


@broken(22, "CausalTransformer#3", "raised", r"No 'lr' in the config; did you mean 'optimizer\.lr'")
def a_key_without_its_group(folder: Path) -> Said:
    return program(folder, "lr=0.001")


@broken(22, "deepmd-kit#1199", "raised", r"pesloss\.Huber has no parameter 'delte'; did you mean 'delta'")
def a_misspelt_argument(folder: Path) -> Said:
    return building(loss({"forces": {"penalty": {"_target_": "pesloss.Huber", "delte": 0.01}}}))


@broken(
    22,
    "deepmd-kit#1199",
    "raised",
    r"Unknown argument of term 'forces' 'penality'; did you mean 'penalty'",
)
def a_misspelt_argument_of_a_term(folder: Path) -> Said:
    return building(loss({"forces": {"penality": "huber"}}))


@broken(
    22,
    "fairchem#1386",
    "raised",
    r"terms: pesloss\.NormalLoss takes a mapping .* got \[\{'property': 'energy'\}\]",
)
def terms_as_a_list(folder: Path) -> Said:
    return building({"_target_": "pesloss.NormalLoss", "terms": [{"property": "energy"}]})


@broken(
    22,
    "hydra#1365",
    "raised",
    r"Unknown property 'enrgy'; did you mean 'energy'.*A property of your own",
)
def a_misspelt_property(folder: Path) -> Said:
    return building(loss({"e": {"property": "enrgy"}}))


@broken(22, "hydra#2039", "raised", r"epochs: pesloss\.training\.Trainer takes a whole number, got 'many'")
def a_word_for_a_number(folder: Path) -> Said:
    return program(folder, "trainer.epochs=many")


@broken(
    22,
    "hydra#620",
    "raised",
    r"'weighting' is chosen twice\. On the command line write weighting=\.\.\., without the \+",
)
def an_option_that_is_added_twice(folder: Path) -> Said:
    return program(folder, "weighting=uncertainty", "+weighting=soft_adapt")


@broken(22, "hydra#231", "raised", r"The environment variable 'NO_SUCH_DATA' is not set")
def a_path_from_a_variable_that_is_not_set(folder: Path) -> Said:
    return program(folder, "data=extxyz", "data.train=${oc.env:NO_SUCH_DATA}")


@broken(22, "hydra#1365", "raised", r"There is no file .*tarin\.xyz; did you mean '.*train\.xyz'")
def a_misspelt_file(folder: Path) -> Said:
    (folder / "train.xyz").write_text("1\n\nH 0 0 0\n")
    return program(folder, "data=extxyz", f"data.train={folder / 'tarin.xyz'}")


def attack(target: str, *args: Any, **options: Any) -> Said:
    """A penalty that is none."""
    return building(loss({"forces": {"penalty": {"_target_": target, "_args_": list(args), **options}}}))


@broken(23, "hydra#3258", "raised", r"terms\.forces\.penalty: target 'os\.system' is not allowed")
def a_penalty_that_runs_a_command(folder: Path) -> Said:
    return attack("os.system", f"touch {folder / 'stolen'}")


@broken(23, "hydra!3261", "raised", r"target 'torch\.nn\.functional\.torch\.hub\.load' is not allowed")
def a_target_by_another_name(folder: Path) -> Said:
    return attack("torch.nn.functional.torch.hub.load", "stranger/repository", "model")


@broken(23, "hydra!3412", "raised", r"terms\.forces\.penalty: pesloss\.building has no module 'importlib'")
def a_target_through_our_own_package(folder: Path) -> Said:
    return attack("pesloss.building.importlib.import_module", "this")


@broken(23, "hydra#3259", "raised", r"target 'subprocess\.run' is not allowed")
def a_target_that_waits(folder: Path) -> Said:
    return attack("subprocess.run", ["true"], _partial_=True)


@broken(23, "fairchem!2077", "raised", r"target 'os\.system' is not allowed")
def a_target_on_the_command_line(folder: Path) -> Said:
    return program(folder, "loss=normal", "+loss.terms.forces.mine._target_=os.system")


@broken(23, "schnetpack!800", "raised", r"_convert_ can only be 'all', got 'partial'")
def a_conversion_of_hydras(folder: Path) -> Said:
    return building(loss(_convert_="partial"))


class _Stolen:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemError('executed')",)


@broken(
    23,
    "hydra#3258",
    "raised",
    r"model\.ckpt cannot be read as a checkpoint .*bare pickles are not opened",
)
def a_checkpoint_that_is_a_pickle(folder: Path) -> Said:
    (folder / "model.ckpt").write_bytes(pickle.dumps(_Stolen()))
    return raising(lambda: load(folder / "model.ckpt"))

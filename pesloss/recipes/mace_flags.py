"""The command line of ``mace_run_train``: flags by name, whatever way they are given."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pesloss.recipes.reading import as_data, mapping_of

_SWITCHES = """
    amsgrad disallow_random_padding_pt distributed dry_run ema foundation_model_readout help keep_checkpoints
    lbfgs pair_repulsion restart_latest save_all_checkpoints save_cpu stage_two swa wandb
"""
_OTHERS = """
    E0s MLP_irreps add_local_electron_energy apply_cutoff atomic_multipoles_max_l
    atomic_multipoles_smearing_width atomic_numbers avg_num_neighbors batch_size beta beta1_schedulefree
    beta2_schedulefree charges_key checkpoints_dir clip_grad compute_atomic_dipole compute_avg_num_neighbors
    compute_forces compute_polarizability compute_stress config correlation default_dtype device dipole_key
    distance_transform downloads_dir edge_irreps elec_temp_key ema_decay embedding_specs enable_cueq
    enable_oeq energy_key error_table eval_interval field_feature_max_l field_feature_norms
    field_feature_widths field_norm_factor field_readout_config field_si filter_type_pt
    fixedpoint_update_config force_mh_ft_lr forces_key foundation_filter_elements foundation_head
    foundation_model foundation_model_elements foundation_model_kwargs freeze gate head_key hidden_irreps
    include_electrostatic_self_interaction interaction interaction_first keep_isolated_atoms
    kspace_cutoff_factor launcher les_arguments log_dir log_level lora lora_alpha lora_rank lr lr_factor
    lr_params_factors lr_scheduler_gamma max_L max_ell mean model model_dir multi_processed_test
    multiheads_finetuning name num_channels num_cutoff_basis num_interactions num_radial_basis
    num_recursion_steps num_samples_pt num_workers only_cueq optimizer patience pin_memory plot
    plot_frequency plot_interaction_e polarizability_key pseudolabel_replay
    pseudolabel_replay_compute_stress pt_train_file pt_valid_file quadrupole_feature_corrections r_max
    radial_MLP radial_type real_pt_data_ratio_threshold results_dir return_electrostatic_potentials scaling
    scheduler scheduler_patience seed skip_evaluate_heads statistics_file std stress_key subselect_pt swa_lr
    test_dir test_file total_charge_key total_spin_key train_file use_agnostic_product use_edge_irreps_first
    use_embedding_readout use_last_readout_only use_reduced_cg use_so3 valid_batch_size valid_file
    valid_fraction virials_key wandb_dir wandb_entity wandb_log_hypers wandb_name wandb_project weight_decay
    work_dir
"""
SWITCHES = frozenset(_SWITCHES.split())
"""Flags of mace-torch 0.3.16 that take no value."""
OTHERS = SWITCHES | frozenset(_OTHERS.split())
"""Its flags that are not of the loss."""
PROGRAMS = ("mace_run_train", "run_train", "run_train.py")


def settings(config: str | Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Values by flag; flags of the second stage stand under their older name, ``swa``.

    Args:
        config: a command line, its words, a mapping, or the text of a YAML file.

    Raises:
        ValueError: for a word that is no flag, and flags that want one value and get more or none.
    """
    if isinstance(config, str):
        config = _words(config) if "--" in config else mapping_of("MACE", as_data(config))
    found = config if isinstance(config, Mapping) else _flags(config)
    return {_older(str(name).lstrip("-")): value for name, value in found.items()}


def is_on(value: Any) -> bool:
    """Whether a switch is set, as a boolean or in words."""
    return value if isinstance(value, bool) else str(value).lower() in ("true", "yes", "1", "t", "y")


def _words(command: str) -> list[str]:
    """Words of a command in a shell, which may go on over several lines."""
    return shlex.split(re.sub(r"\\\s*(\n|$)", " ", command))


def _flags(words: Iterable[str]) -> dict[str, Any]:
    words = list(words)
    starts = [at + 1 for at, word in enumerate(words) if word.endswith(PROGRAMS)]
    found: dict[str, list[str]] = {}
    name = None
    for word in words[max(starts, default=0) :]:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name] = [value] if equals else []
        elif name is None:
            raise ValueError(f"MACE: a flag begins with --, got '{word}'.")
        else:
            found[name].append(word)
    return {name: _value(name, values) for name, values in found.items()}


def _value(name: str, values: list[str]) -> Any:
    if name in SWITCHES and not values:
        return True
    if name == "wandb_log_hypers":
        return values
    if len(values) != 1:
        raise ValueError(f"MACE --{name} takes one value, got {values}.")
    return values[0]


def _older(name: str) -> str:
    if name == "stage_two":
        return "swa"
    return name.replace("start_stage_two", "start_swa").replace("stage_two_", "swa_")

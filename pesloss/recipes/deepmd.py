"""DeePMD-kit's losses from the ``loss`` section of its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pesloss.names import unknown
from pesloss.recipes.deepmd_parts import OverDeviation, PopulationTerm, SignedRelative
from pesloss.recipes.reading import check_keys, mapping_of
from pesloss.recipes.recipe import load

__all__ = ["OverDeviation", "PopulationTerm", "SignedRelative", "node"]

Config = Mapping[str, Any]
Node = dict[str, Any]

Pair = tuple[float, float]


def _prefactors(**pairs: Pair) -> dict[str, Any]:
    """``start_pref_x`` and ``limit_pref_x`` of each x."""
    return {
        f"{when}_pref_{term}": value
        for term, pair in pairs.items()
        for when, value in zip(("start", "limit"), pair, strict=True)
    }


NONE, ONE = (0.0, 0.0), (1.0, 1.0)
ENERGY_FIRST, FORCES_LAST = (0.02, 1.0), (1000.0, 1.0)
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "ener": {
        **_prefactors(e=ENERGY_FIRST, f=FORCES_LAST, v=NONE, h=NONE, ae=NONE, pf=NONE, gf=NONE),
        "use_default_pf": False,
        "relative_f": None,
        "enable_atom_ener_coeff": False,
        "numb_generalized_coord": 0,
        "use_huber": False,
        "loss_func": "mse",
        "f_use_norm": False,
        "huber_delta": 0.01,
        "intensive_ener_virial": False,
    },
    "ener_spin": {
        **_prefactors(e=ENERGY_FIRST, fr=FORCES_LAST, fm=(10000.0, 10.0), v=NONE, ae=NONE, pf=NONE),
        "relative_f": None,
        "enable_atom_ener_coeff": False,
        "loss_func": "mse",
        "intensive_ener_virial": False,
    },
    "dens": {
        **_prefactors(e=ENERGY_FIRST, f=FORCES_LAST),
        "loss_func": "mae",
        "dens_prob": 0.5,
        "dens_fixed_noise_std": True,
        "dens_std": 0.025,
        "dens_corrupt_ratio": 0.5,
        "dens_denoising_pos_coefficient": 10.0,
    },
    "dos": _prefactors(dos=NONE, cdf=NONE, ados=ONE, acdf=NONE),
    "tensor": {"pref": None, "pref_atomic": None, "enable_atomic_weight": False},
    "property": {"loss_func": "smooth_mae", "metric": ["mae"], "beta": 1.0},
    "population": {
        **_prefactors(spin=ONE, spin_total=ONE, pop=ONE, pop_alpha_total=ONE, pop_beta_total=ONE),
        "loss_func": "smooth_mae",
        "metric": ["mae"],
        "beta": 1.0,
    },
}
"""Keys of each type of loss, and what DeePMD-kit takes where they are not given."""

ALIASES = {"ener_hess": "ener"}
ENERGY = {
    "e": "energy",
    "f": "forces",
    "v": "virial",
    "ae": "atomic_energies",
    "pf": "prefactor_forces",
    "gf": "generalized_forces",
    "h": "hessian",
}
EXTRA = {
    "prefactor_forces": "deepmd_prefactor",
    "generalized_forces": "deepmd_generalized",
    "hessian": "deepmd_hessian",
}
"""Recipes of the terms that not every loss of type ener has."""

SPIN = {"e": "energy", "fr": "forces", "fm": "magnetic_forces", "v": "virial", "ae": "atomic_energies"}
DOS = {"dos": "dos", "cdf": "cumulative_dos", "ados": "atomic_dos", "acdf": "cumulative_atomic_dos"}
POPULATION = {
    "spin": "spins",
    "spin_total": "total_spin",
    "pop": "populations",
    "pop_alpha_total": "total_up",
    "pop_beta_total": "total_down",
}
PENALTIES = {"mse": "squared", "mae": "absolute", "huber": "huber"}
NORMS = {"mae": "l2_norm", "huber": "huber_norm"}
SMOOTH = {"smooth_mae": "smooth_l1", "mae": "absolute", "mse": "squared"}
TENSORS = {"dipole": "dipole", "polar": "polarizability"}


def node(config: Any, *, learning_rate: float | None = None, **model: Any) -> Node:
    """The loss of a DeePMD-kit input: its ``loss`` section, or the whole of it.

    The weights follow the learning rate, as a share of the first one.

    Args:
        config: the section, or the whole input, in which the fitting net says what the options below do.
        learning_rate: give the loss as it is at this share of the first learning rate, with fixed weights.
        model: what the fitting net knows: ``numb_dos`` (type dos); ``tensor``, which is ``dipole`` or
            ``polar`` (type tensor); ``property_name``, ``task_dim``, ``intensive``, ``out_bias`` and
            ``out_std`` (type property).

    Raises:
        ValueError: for keys that DeePMD-kit does not have (it passes over them), or reads and does not use.
    """
    given = mapping_of("The loss section of DeePMD-kit", config)
    if "loss_dict" in given:
        names = ", ".join(map(str, given["loss_dict"]))
        raise ValueError(f"This input has a loss for each of its models; give one of loss_dict: {names}.")
    if "loss" in given or "model" in given:
        fitting = given.get("model", {}).get("fitting_net", {})
        model = {**_from_fitting_net(fitting), **model}
        given = mapping_of("loss", given.get("loss", {}))
    given = {key: value for key, value in given.items() if not key.startswith("_")}  # comments
    kind = str(given.pop("type", "ener"))
    kind = ALIASES.get(kind, kind)
    if kind not in DEFAULTS:
        raise ValueError(f"DeePMD-kit's loss: {unknown('type', kind, DEFAULTS)}")
    check_keys(f"DeePMD-kit's loss of type {kind}", given, DEFAULTS[kind])
    check_keys("Options of DeePMD-kit's model", model, _MODEL)
    made = _MAKERS[kind]({**DEFAULTS[kind], **given}, model)
    return made if learning_rate is None else _frozen(made, learning_rate)


def _from_fitting_net(fitting: Config) -> dict[str, Any]:
    known = {
        key: fitting[key] for key in ("numb_dos", "property_name", "task_dim", "intensive") if key in fitting
    }
    return {**known, "tensor": fitting["type"]} if fitting.get("type") in TENSORS else known


def _energies(config: Config, model: Config) -> Node:
    made = _scheduled(load("deepmd_ener"), config, ENERGY)
    for term, recipe in EXTRA.items():
        if term in made["weights"]:
            _merge(made["terms"], load(recipe)["terms"])
    made, kind = _finished(made), _kind(config)
    if "generalized_forces" in made["terms"]:
        made["terms"]["generalized_forces"]["coordinates"] = config["numb_generalized_coord"]
    _penalize(made["terms"], kind, config)
    if "prefactor_forces" in made["terms"] and not config["use_default_pf"]:
        _differs(made, "It leaves out the prefactor_forces of a system without atom_pref, which is 1 here.")
    if kind == "huber":
        made["huber_delta"] = _deltas(config["huber_delta"], made["terms"])
        if config["loss_func"] == "mae":
            _ignore_huber(made, config)
    return made


def _kind(config: Config) -> str:
    """Which of its three families of errors a loss of type ener is of."""
    kind = config["loss_func"]
    if kind not in ("mse", "mae"):
        raise ValueError(f"loss_func: {unknown('error', kind, ('mse', 'mae'))}")
    if config.get("use_huber"):
        beyond = ("pf", "gf", "h")
        used = [name for name in beyond if config[f"start_pref_{name}"] or config[f"limit_pref_{name}"]]
        if used or config["relative_f"] is not None:
            raise ValueError(
                "use_huber: DeePMD-kit has no Huber errors of relative forces (relative_f), nor beside "
                "start_pref_pf, start_pref_gf or start_pref_h."
            )
        return "huber"
    if config.get("f_use_norm") and kind == "mse":
        raise ValueError(
            "f_use_norm needs loss_func: mae or use_huber: true; the square of a norm is that of mse."
        )
    return kind


def _penalize(terms: Node, kind: str, config: Config) -> None:
    """The errors of a kind, in place: what is squared is not divided by N² unless it is to be intensive."""
    for name, term in terms.items():
        if name != "generalized_forces":
            term["penalty"] = PENALTIES[kind]
        if name in ("energy", "virial") and (kind != "mse" or config["intensive_ener_virial"]):
            term["residual"] = "per_atom"
        if term.get("property") == "forces":
            if config.get("f_use_norm") and name == "forces":
                term["penalty"] = NORMS[kind]
            if config["relative_f"] is not None:
                term["residual"] = {"_target_": "pesloss.losses.Relative", "offset": config["relative_f"]}
    if "energy" in terms and config["enable_atom_ener_coeff"]:
        _merge(terms, load("deepmd_reaction")["terms"])


def _deltas(delta: float | Sequence[float], terms: Config) -> float | dict[str, float]:
    if not isinstance(delta, Sequence):
        return delta
    if len(delta) != 3:
        raise ValueError(
            f"huber_delta must be a number, or three for energy, forces and virial, got {list(delta)}."
        )
    energy, forces, virial = delta
    named = {"energy": energy, "forces": forces, "virial": virial, "atomic_energies": energy}
    return {name: value for name, value in named.items() if name in terms}


def _ignore_huber(made: Node, config: Config) -> None:
    """What DeePMD-kit does with ``use_huber`` beside ``loss_func: mae``."""
    absolute = {name: dict(term) for name, term in made["terms"].items()}
    _penalize(absolute, "mae", config)
    _differs(made, "Beside loss_func mae it passes over use_huber.", terms=absolute, huber_delta=None)


def _differs(made: Node, because: str, **how: Any) -> None:
    """One more difference of the original."""
    original = made.setdefault("original", {})
    original.update(because=f"{original.get('because', '')} {because}".strip(), **how)


def _spins(config: Config, model: Config) -> Node:
    for key in ("start_pref_pf", "limit_pref_pf", "relative_f"):
        if config[key]:
            raise ValueError(
                f"{key}: DeePMD-kit takes it for type ener_spin and does nothing with it; leave it out."
            )
    made = _scheduled(load("deepmd_spin"), config, SPIN)
    _penalize(made["terms"], _kind(config), config)
    return _finished(made)


def _densities(config: Config, model: Config) -> Node:
    made = _scheduled(load("deepmd_dos"), config, DOS)
    points = _needed(model, "numb_dos", "dos", "the number of grid points")
    for term in made["terms"].values():
        term["property"] = {**term["property"], "shape": [points]}
    return _finished(made)


def _tensors(config: Config, model: Config) -> Node:
    tensor: str = _needed(model, "tensor", "tensor", "'dipole' or 'polar'")
    if tensor not in TENSORS:
        raise ValueError(unknown("tensor", tensor, TENSORS))
    for key in ("pref", "pref_atomic"):
        if config[key] is None:
            raise ValueError(f"DeePMD-kit's loss of type tensor needs '{key}'.")
    made, name = load(f"deepmd_{tensor}"), TENSORS[tensor]
    made["weights"] = {name: config["pref"], f"atomic_{name}": config["pref_atomic"]}
    if config["enable_atomic_weight"]:
        # it multiplies the residual, and atoms of weight 0 stay in the denominator
        mean = {"_target_": "pesloss.losses.Mean", "denominator": "labelled"}
        weighted = {"weight_inside": True, "weighted_by": ["atom_weight"], "reduction": mean}
        made["terms"][f"atomic_{name}"].update(weighted)
    return _finished(made)


def _properties(config: Config, model: Config) -> Node:
    made, name = (
        load("deepmd_property"),
        _needed(model, "property_name", "property", "the name of the property"),
    )
    size, function = model.get("task_dim", 1), config["loss_func"]
    intensive, deviation = model.get("intensive", False), model.get("out_std")
    term = made["terms"].pop("property")
    term["property"] = {"name": name, "shape": [size], "extensive": not intensive}
    inner = "difference" if intensive else "per_atom"
    term["residual"] = {**term["residual"], "residual": inner, "deviation": deviation, "components": size}
    made.update(weights={name: 1.0}, terms={name: term})
    if function in SMOOTH:
        term["penalty"] = SMOOTH[function]
    elif function == "rmse":
        term.update(penalty="squared", reduction="root_mean")
    elif function == "mape":
        _relative(made, name, term, intensive)
    else:
        raise ValueError(f"loss_func: {unknown('error', function, (*SMOOTH, 'rmse', 'mape'))}")
    made["huber_delta"] = config["beta"] if function == "smooth_mae" else None
    return made


def _relative(made: Node, name: str, term: Node, intensive: bool) -> None:
    if not intensive:
        raise ValueError(
            "loss_func mape is of intensive properties here: of others it is relative to label/N + 0.001."
        )
    term.update(
        residual={"_target_": "pesloss.losses.Relative", "offset": 1e-3, "of": "entry"},
        penalty="absolute",
        reduction="mean",
    )
    signed = {"_target_": "pesloss.recipes.deepmd.SignedRelative", "offset": 1e-3}
    _differs(
        made,
        "It divides by the label with its sign plus 0.001: a label near -0.001 has no bound.",
        terms={name: {"residual": signed}},
    )


def _populations(config: Config, model: Config) -> Node:
    function = config["loss_func"]
    if function not in ("smooth_mae", "mae"):
        note = " Its rmse is a root of a mean times the number of entries." if function == "rmse" else ""
        raise ValueError(f"loss_func: {unknown('error', function, ('smooth_mae', 'mae'))}{note}")
    made = _scheduled(load("deepmd_population"), config, POPULATION)
    for term in made["terms"].values():
        term["penalty"] = SMOOTH[function]
    made["huber_delta"] = config["beta"] if function == "smooth_mae" else None
    return _finished(made)


def _denoising(config: Config, model: Config) -> Node:
    kind = _kind(config)
    if config["start_pref_f"] != config["limit_pref_f"]:
        raise ValueError(
            "start_pref_f and limit_pref_f differ: the forces would change against the noise, whose "
            "coefficient does not follow the learning rate. Give both the same."
        )
    if not config["dens_fixed_noise_std"]:
        raise ValueError("dens_fixed_noise_std: DeePMD-kit takes only true.")
    made = _scheduled(load("deepmd_dens"), config, {"e": "energy", "f": "forces"})
    share = config["dens_corrupt_ratio"]
    made["terms"]["forces"].update(
        std=config["dens_std"],
        probability=config["dens_prob"],
        corrupt_ratio=1.0 if share is None else share,
        ratio=config["dens_denoising_pos_coefficient"] / config["start_pref_f"],
        penalty=NORMS.get(kind, PENALTIES[kind]),
    )
    if kind == "mse":
        made["terms"]["energy"] = load("deepmd_ener")["terms"]["energy"]
    return _finished(made)


def _needed(model: Config, key: str, kind: str, what: str) -> Any:
    if key not in model:
        raise ValueError(
            f"A loss of type {kind} needs {what}: give {key}=..., or the whole input with its fitting_net."
        )
    return model[key]


def _scheduled(made: Node, config: Config, terms: Mapping[str, str]) -> Node:
    """Weights at the first learning rate and their way to those in the limit."""
    weights, factors, half = {}, {}, []
    for key, term in terms.items():
        start, limit = float(config[f"start_pref_{key}"]), float(config[f"limit_pref_{key}"])
        if start == limit == 0:
            continue
        weights[term] = start or limit
        if start != limit:
            factors[term] = {0: limit / weights[term], 1: start / weights[term]}
        if 0 in (start, limit) and key != "h":
            half.append(term)
    made |= {"weights": weights, "weighting": _weighting(factors)}
    if half:
        _differs(
            made,
            f"Terms {half}, of weight 0 at the start or in the limit, are never there.",
            weights={**weights, **dict.fromkeys(half, 0.0)},
            weighting=_weighting({name: points for name, points in factors.items() if name not in half}),
        )
    return made


def _weighting(factors: Config) -> str | Node:
    if not factors:
        return "fixed"
    schedule = {"_target_": "pesloss.weighting.Schedule", "by": "learning_rate", "between": "linear"}
    return {**schedule, "factors": dict(factors)}


def _frozen(made: Node, learning_rate: float) -> Node:
    """Fixed weights, those of one learning rate."""

    def fixed(part: Node) -> Node:
        factors = part["weighting"]["factors"] if isinstance(part.get("weighting"), dict) else {}
        weights = {
            name: weight * (points[0] + (points[1] - points[0]) * learning_rate)
            for name, weight in part.get("weights", {}).items()
            for points in [factors.get(name, {0: 1.0, 1: 1.0})]
        }
        return {**part, **({"weights": weights, "weighting": "fixed"} if weights else {})}

    return fixed({**made, "original": fixed(made.get("original", {}))})


def _finished(made: Node) -> Node:
    """Without the terms that have no weight."""
    made["terms"] = {name: made["terms"][name] for name in made["weights"]}
    return made


def _merge(terms: Node, others: Config) -> None:
    for name, term in others.items():
        terms[name] = {**terms.get(name, {}), **term}


_MODEL = ("numb_dos", "tensor", "property_name", "task_dim", "intensive", "out_bias", "out_std")
_MAKERS = {
    "ener": _energies,
    "ener_spin": _spins,
    "dens": _denoising,
    "dos": _densities,
    "tensor": _tensors,
    "property": _properties,
    "population": _populations,
}

"""A config is a loss, or an error whose sentence says what is wrong with it."""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from pesloss import build
from pesloss.building import BuildError
from pesloss.losses import Derived, Mask, Penalty, Reduction, Residual, Term, TotalLoss
from pesloss.losses.derived import DERIVED
from pesloss.losses.formulas import formulas, remarks
from pesloss.losses.masks import MASKS
from pesloss.losses.penalties import PENALTIES
from pesloss.losses.reductions import REDUCTIONS
from pesloss.losses.residuals import RESIDUALS
from pesloss.mistakes import explain
from pesloss.weighting import WEIGHTINGS, Weighting
from tests.batches import make, parameters, predict
from tests.parts import final_classes

FAMILIES = {
    "prediction": (Derived, DERIVED),
    "residual": (Residual, RESIDUALS),
    "penalty": (Penalty, PENALTIES),
    "mask": (Mask, MASKS),
    "reduction": (Reduction, REDUCTIONS),
    "weighting": (Weighting, WEIGHTINGS),
}
"""Arguments that take a part: its family, and the names that stand for parts."""
NAN, INF = float("nan"), float("inf")

sizes = st.sampled_from([1.0, 0.01, 5, 2.0, 1e-30, 1e30])
labels = st.sampled_from(["energy", "forces", "stress", "virial", "dipole", "charges", "polarization"])
shares = st.sampled_from([0.1, 0.5, 0.9])
few = st.integers(1, 4)


def one_of(words: str) -> st.SearchStrategy[str]:
    return st.sampled_from(words.split())


own = st.sampled_from(
    [
        {"name": "mtt::etot", "shape": [2], "extensive": True, "unit": "eV"},
        {"name": "dos", "shape": [9]},
        {"name": "phase"},
    ]
)
bounds = st.lists(sizes, min_size=2, max_size=2, unique=True).map(sorted)
RIGHT: dict[str, st.SearchStrategy[Any]] = {
    "property": labels | own,
    "total": st.just("energy"),
    "label": labels,
    "weighted_by": st.lists(one_of("weight atom_weight energy_weight"), max_size=2),
    "components": one_of("diagonal in_plane") | st.dictionaries(one_of("xx xy z"), sizes, max_size=2),
    "kind": one_of("softmax sigmoid"),
    "ConfidenceTerm.spacing": one_of("linear log"),
    "beyond": one_of("ignore last"),
    "pair": st.just([0, 1]),
    "method": one_of("sum trapezoid"),
    "score": one_of("gaussian_nll gaussian_crps empirical_crps"),
    "SignSymmetricTerm.by": one_of("structure batch"),
    "Standardized.by": one_of("all element"),
    "Schedule.by": one_of("epoch step learning_rate"),
    "Standardized.scale": sizes | st.just({"H": 1.0, "C": 0.5, "O": 2.0}),
    "VarianceTerm.form": one_of("variance log_variance"),
    "Uncertainty.form": one_of("likelihood kendall tace"),
    "center": one_of("mass positions none"),
    "Magnitude.of": one_of("both label"),
    "Relative.of": one_of("row entry"),
    "shear": one_of("entries doubled mandel"),
    "order": one_of("ase vasp"),
    "triangle": one_of("mean upper lower"),
    "thresholds": st.just([1.0, 2.0]),
    "ConditionalHuber.factors": st.just([1.0, 0.5, 0.1]),
    "ConditionalSquared.factors": st.just([1.0, 0.5, 0.1]),
    "Schedule.factors": st.dictionaries(labels, st.dictionaries(st.integers(0, 9), sizes), max_size=1),
    "softplus": st.just(True),  # without it, what is predicted must be positive
    "quantile": shares,
    "probability": shares,
    "corrupt_ratio": shares,
    "deltas": st.dictionaries(sizes, sizes, min_size=1, max_size=2),
    "elements": st.lists(st.sampled_from(["H", 8]), min_size=1, max_size=2),
    "Given.key": st.just("chosen"),
    "PerGroup.key": one_of("config_type dataset"),
    "PerElement.coefficients": st.dictionaries(one_of("H O"), sizes, max_size=2),
    "PerGroup.coefficients": st.dictionaries(one_of("bulk surface"), sizes, min_size=1),
    "PerStructure.denominator": one_of("labelled structures nonzero"),
    "denominator": one_of("labels labelled weights entries"),
    "between": one_of("constant linear cosine"),
    "interval": one_of("epoch step"),
    "bounds": bounds,
    "bool": st.booleans(),
    "int": few,
    "float": sizes,
}
"""Values that make sense, by class and parameter, by parameter, or by type."""
WRONG = (
    None,
    True,
    0,
    -1,
    -0.5,
    NAN,
    INF,
    1.5,
    10**400,
    "",
    "1.0",
    "hubr",
    "energy",
    [],
    {},
    [1.0],
    ["energy"],
)
WRONG_CONTAINERS = (
    *(
        ["energy"],
        [None],
        [[1], []],
        [NAN],
        ["1"],
        {"enrgy": 1.0},
        {"energy": "1"},
        {"energy": None},
        {"energy": {}},
    ),
    *({0: 1.0}, {None: 1.0}, {"forces": NAN}, {"forces": -1}, {"_target_": "os.system"}, {"_partial_": True}),
    *({"_target_": "pesloss.Hubr"}, {"_target_": None}, {"_target_": "pesloss.Huber", "_partial_": True}),
)
WRONG_KEYS = (
    "delte",
    "weigth",
    "weight",
    "property",
    "name",
    "_args_",
    "_partial_",
    "_recursive_",
    0,
    None,
    "",
)


@cache
def classes(family: type) -> list[type]:
    return sorted(final_classes(family), key=lambda kind: kind.__name__)


def argument(kind: type, parameter: inspect.Parameter) -> st.SearchStrategy[Any] | None:
    """Values that make sense for a parameter of a part; ``None`` where only its default does."""
    name = parameter.name
    if name in FAMILIES:
        family, known = FAMILIES[name]
        return st.sampled_from(sorted(known)) | st.deferred(lambda: part(family))
    for key in (f"{kind.__name__}.{name}", name, str(parameter.annotation).removesuffix(" | None")):
        if key in RIGHT:
            return RIGHT[key]
    return None


@st.composite
def node(draw: st.DrawFn, kind: type) -> dict[str, Any]:
    """A node of a config for a class, with some of its arguments."""
    made: dict[str, Any] = {"_target_": f"{kind.__module__}.{kind.__name__}"}
    for name, parameter in inspect.signature(kind).parameters.items():
        values = argument(kind, parameter)
        needed = parameter.default is parameter.empty
        if values is not None and (needed or not draw(st.integers(0, 3))):
            made[name] = draw(values)
    return made


def part(family: type) -> st.SearchStrategy[Any]:
    return st.sampled_from(classes(family)).flatmap(node)


comparison = st.fixed_dictionaries(
    {},
    optional={
        "residual": st.sampled_from(["difference", "per_atom"]) | part(Residual),
        "penalty": st.sampled_from(["squared", "absolute"]) | part(Penalty),
        "reduction": st.sampled_from(sorted(REDUCTIONS)) | part(Reduction),
        "mask": st.sampled_from(sorted(MASKS)) | part(Mask),
        "weight": sizes,
        "weight_inside": st.booleans(),
    },
)
"""The arguments of a comparison, as they stand below a term's name."""
flat = st.sampled_from(
    [
        {
            "loss_property": ["energy", "forces"],
            "loss_function_name": ["mse_energy_per_atom", "l2mae_forces"],
        },
        {
            "loss_property": ["stress"],
            "loss_function_name": ["huber_voigt_stress"],
            "loss_property_weights": [2.0],
            "loss_huber_delta": 0.1,
        },
        {
            "loss_property": ["forces"],
            "loss_function_name": ["huber_forces"],
            "loss_function_kwargs": [{"huber_delta": 0.01}],
        },
    ]
)


@st.composite
def right(draw: st.DrawFn) -> dict[str, Any]:
    """A config that makes sense, of two terms or of flat lists."""
    front = draw(st.sampled_from(["NormalLoss", "UncertaintyLoss"]))
    made: dict[str, Any] = {"_target_": f"pesloss.{front}"}
    if draw(st.integers(0, 7)):
        made["terms"] = draw(st.dictionaries(labels, comparison | part(Term), min_size=1, max_size=2))
        names = list(made["terms"])
        rates = {"weights": dict.fromkeys(names, 1.0), "config_type_weights": {"bulk": 0.5}}
    else:
        made |= copy.deepcopy(draw(flat))
        rates = {"dataset_weights": {"a": 2.0}}
    further = {**rates, "weight": 0.5, "normalize": True, "monitor": True, "huber_delta": 0.1}
    made |= {key: copy.deepcopy(further[key]) for key in draw(st.sets(st.sampled_from(sorted(further))))}
    if front == "NormalLoss" and not draw(st.integers(0, 3)):
        made["weighting"] = draw(st.sampled_from(sorted(WEIGHTINGS)) | part(Weighting))
    return made


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a config with every key in it."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in pairs:
        yield value, key
        yield from places(below)


@st.composite
def slips(draw: st.DrawFn, configs: st.SearchStrategy[Any]) -> Any:
    """A config, and what a slip of the hand or two make of it."""
    config = copy.deepcopy(draw(configs))
    for _ in range(draw(st.integers(1, 2))):
        container, key = draw(st.sampled_from(list(places(config)) or [({0: 0}, 0)]))
        slip = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "add"]))
        if slip in ("remove", "rename"):
            value = container.pop(key)
        else:
            value = copy.deepcopy(draw(st.sampled_from([*WRONG, *WRONG_CONTAINERS])))
        if slip == "replace":
            container[key] = value
        elif slip != "remove" and isinstance(container, dict):
            container[draw(st.sampled_from(WRONG_KEYS))] = value
    return config


def sentence(error: Exception) -> str:
    """What a user reads; an error that has none fails with its own traceback."""
    said = explain(error)
    assert said, "".join(traceback.format_exception(error))
    return said


def attempt(action: Callable[[], Any]) -> Any:
    """What comes of it, ``None`` for an error with a sentence."""
    try:
        return action()
    except Exception as error:
        assert len(sentence(error).split()) > 3
        return None


def computed(loss: TotalLoss) -> Any:
    """Its total on an ordinary batch, ``None`` if it says that this lacks something."""
    batch = make((1, 3, 2), weights=False)
    predictions = predict(parameters(), batch)
    return attempt(lambda: loss(predictions, loss.prepare(batch)))


@given(right())
def test_a_config_that_makes_sense_is_finite_and_says_what_it_is(config: dict[str, Any]) -> None:
    loss = attempt(lambda: build(config))
    if loss is None:
        return
    total = computed(loss)
    assert all(all(row) for row in zip(*[(f.name, f.weight, f.value) for f in formulas(loss)], strict=True))
    assert list(remarks(loss)) is not None
    assert total is None or total.isfinite()


@given(slips(right()))
def test_a_config_with_slips_is_a_loss_or_a_sentence(config: dict[str, Any]) -> None:
    try:
        loss = build(config)
    except BuildError as error:
        assert len(sentence(error).split()) > 3
        return
    assume(isinstance(loss, TotalLoss))  # without its target a node is plain data
    formulas(loss)
    computed(loss)

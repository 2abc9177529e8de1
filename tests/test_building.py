from __future__ import annotations

import copy
import functools
import inspect
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue

import pesloss
from pesloss import building as module
from pesloss.building import FOREIGN, BuildError, allow, build, buildable
from pesloss.losses.properties import Property

PROPERTY = "pesloss.losses.properties.Property"


class Part:
    """Keeps what it is given, so that tests can look at it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


class Spring:
    def __init__(self, stiffness: float, length: float = 1.0) -> None:
        if stiffness < 0:
            raise ValueError(f"A spring pulls back: stiffness must not be negative, got {stiffness}.")
        self.stiffness, self.length = stiffness, length


@dataclass
class Schema:
    _target_: str = f"{__name__}.Part"
    sizes: list[int] = field(default_factory=lambda: [1, 2])


ALLOWED = (f"{__name__}.Part", f"{__name__}.Spring")
part = functools.partial(dict, _target_=ALLOWED[0])
spring = functools.partial(dict, _target_=ALLOWED[1])
make = functools.partial(build, allow=ALLOWED)


# --- what is built


@pytest.mark.parametrize("value", [None, 3, "text", [1, [2]], {"a": {"b": 1}}, (1, 2)])
def test_values_without_targets_stay_as_they_are(value):
    assert build(value) == value


@pytest.mark.parametrize("wrap", [dict, OmegaConf.create], ids=["dict", "DictConfig"])
def test_nodes_are_built_from_the_inside_out(wrap):
    loss = make(wrap(part(terms={"a": spring(stiffness=2.0)}, more=[spring(stiffness=3.0), 1])))
    assert loss.kwargs["terms"]["a"].stiffness == 2.0
    assert loss.kwargs["more"][0].stiffness == 3.0 and loss.kwargs["more"][1] == 1


def test_arguments_reach_the_outermost_target():
    weight = torch.nn.Parameter(torch.zeros(2))
    node = OmegaConf.create({"_target_": "torch.optim.AdamW", "lr": 0.1})
    optimizer = build(node, [weight], lr=0.01)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["params"][0] is weight
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_arguments_are_handed_over_as_they_are():
    shared: list[int] = []
    assert make(part(_args_=[1]), shared, key=shared).args[0] is shared
    assert make(part(), key=shared).kwargs["key"] is shared


def test_positional_arguments_are_built_too():
    built = make(part(_args_=[spring(stiffness=1.0), [2]]))
    assert isinstance(built.args[0], Spring) and built.args[1] == [2]


def test_partial_waits_for_the_rest():
    later = make(spring(_partial_=True, length=2.0))
    assert isinstance(later, functools.partial)
    assert later(stiffness=5.0).length == 2.0


def test_unrecursive_targets_get_their_nodes_as_written():
    inner = spring(stiffness=1.0)
    assert make(part(_recursive_=False, inner=inner)).kwargs["inner"] == inner


@pytest.mark.parametrize("recursive", [True, False])
def test_targets_get_plain_containers(recursive):
    config = OmegaConf.create({"loss": part(a={"b": [1, {"c": 2}]}, _args_=[[3]], _recursive_=recursive)})
    built = make(config.loss, extra=OmegaConf.create({"d": [4]}))

    def types(value: Any) -> set[type]:
        below = (
            value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        )
        return {type(value)}.union(*map(types, below))

    assert not types([built.args, built.kwargs]) & {DictConfig, ListConfig}
    assert built.kwargs == {"a": {"b": [1, {"c": 2}]}, "extra": {"d": [4]}}


def test_structured_configs_are_plain_too():
    built = make(OmegaConf.structured(Schema))
    assert built.kwargs == {"sizes": [1, 2]} and type(built.kwargs["sizes"]) is list


@pytest.mark.parametrize("wrap", [copy.deepcopy, OmegaConf.create], ids=["dict", "DictConfig"])
def test_the_config_is_not_changed_and_not_shared(wrap):
    node = wrap({"x": part(sizes=[1, 2], inner=spring(stiffness=1.0))})
    before = copy.deepcopy(node)
    first, second = make(node)["x"], make(node)["x"]
    first.kwargs["sizes"].append(3)
    assert second.kwargs["sizes"] == [1, 2] and node == before
    assert first.kwargs["inner"] is not second.kwargs["inner"]


def test_interpolations_are_followed_through_the_whole_config():
    config = OmegaConf.create({"cutoff": 5.0, "model": spring(stiffness="${cutoff}")})
    assert make(config.model).stiffness == 5.0


def test_missing_values_and_broken_interpolations_are_named():
    with pytest.raises(MissingMandatoryValue, match=r"full_key: model.stiffness"):
        make(OmegaConf.create({"model": spring(stiffness="???")}).model)
    with pytest.raises(InterpolationKeyError, match="'cutof' not found"):
        make(OmegaConf.create({"model": spring(stiffness="${cutof}")}).model)


# --- what a node may say


def test_misspelt_parameters_are_named_with_path_target_and_the_nearest():
    config = OmegaConf.create(
        {"loss": {"terms": {"forces": {"_target_": PROPERTY, "name": "f", "extensiv": True}}}}
    )
    message = (
        rf"^loss\.terms\.forces: {PROPERTY} has no parameter 'extensiv'; did you mean 'extensive'\? "
        r"Known: extensive, name, rows, shape, unit\.$"
    )
    with pytest.raises(BuildError, match=message):
        build(config.loss)
    with pytest.raises(BuildError, match=message):
        build(config)


def test_the_path_counts_list_entries():
    with pytest.raises(BuildError, match=r"^a\[1\]\.b: .*'stifness'; did you mean 'stiffness'"):
        make({"a": [1, {"b": spring(stifness=1.0)}]})


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (spring(), r"missing a required argument: 'stiffness'; it takes \(stiffness, length=1.0\)"),
        (spring(_args_=[1, 2, 3]), "too many positional arguments"),
        (spring(_args_=[1], stiffness=2), "multiple values for argument 'stiffness'"),
        (spring(stiffness=1, _partal_=True), r"Unknown key '_partal_'; did you mean '_partial_'\?"),
        (spring(stiffness=1, _partial_="yes"), "_partial_ must be true or false, got 'yes'"),
        (spring(stiffness=1, _recursive_=0), "_recursive_ must be true or false, got 0"),
        (spring(stiffness=1, _convert_="partial"), "_convert_ can only be 'all', got 'partial'"),
        (spring(_args_="a"), "_args_ must be a list, got 'a'"),
        ({"_taget_": PROPERTY}, r"Unknown key '_taget_'; did you mean '_target_'\?"),
        ({"_partial_": True}, "'_partial_' stands without a '_target_'"),
        ({"_target_": Spring}, "_target_ must be a dotted name, got <class"),
        ({"_target_": None}, "_target_ must be a dotted name, got None"),
    ],
)
def test_wrong_nodes_are_refused(node, message):
    with pytest.raises(BuildError, match=message):
        make({"x": node})


def test_arguments_need_a_target():
    with pytest.raises(BuildError, match="no _target_ to take them"):
        build({"a": 1}, lr=0.1)


def test_misspelt_arguments_of_the_caller_are_named_too():
    with pytest.raises(BuildError, match=r"no parameter 'lenght'; did you mean 'length'\?"):
        make(spring(stiffness=1.0), lenght=2)


def test_partial_checks_names_but_waits_for_values():
    assert make(spring(_partial_=True)).args == ()
    with pytest.raises(BuildError, match="no parameter 'stifness'"):
        make(spring(_partial_=True, stifness=1.0))


def test_errors_of_a_target_name_its_place_and_stay_as_the_cause():
    with pytest.raises(
        BuildError, match=rf"^a\.b: {__name__}\.Spring: A spring pulls back.*got -1"
    ) as caught:
        make({"a": {"b": spring(stiffness=-1)}})
    assert isinstance(caught.value.__cause__, ValueError)


def test_nothing_is_called_unless_everything_is_right():
    called = []

    class Watch(Part):
        def __init__(self) -> None:
            called.append(self)

    globals()["Watch"] = Watch
    node = {"first": {"_target_": f"{__name__}.Watch"}, "second": spring(stifness=1.0)}
    with pytest.raises(BuildError, match="stifness"):
        make(node, allow=[*ALLOWED, f"{__name__}.Watch"])
    assert not called


# --- what may be built


ATTACKS = [
    "os.system",
    "logging.os.system",
    "subprocess.run",
    "builtins.exec",
    "builtins.open",
    "pathlib.Path.write_text",
    "urllib.request.urlopen",
    "sympy.sympify",
    "pip.main",
    "torch.load",
    "torch.hub.load",
    "torch.nn.functional.torch.hub.load",
    "torch.optim.Adam.__init__.__globals__",
    "torch.optim.adam.Adam",
    "torch.optim.lr_scheduler.torch.load",
    "torch.utils.collect_env.run",
    "pesloss",
    "pesloss.",
    "pesloss..build",
    "pesloss:building",
    "pesloss.building",
    "pesloss.build",
    "pesloss.building.build",
    "pesloss.building.allow",
    "pesloss.building.buildable",
    "pesloss.building._Call",
    "pesloss.building._ALLOWED.add",
    "pesloss.building.importlib",
    "pesloss.building.importlib.import_module",
    "pesloss.building.functools.partial",
    "pesloss.building.sys.modules.clear",
    "pesloss.building.ModuleType",
    "pesloss.building.OmegaConf.load",
    "pesloss.building.BuildError.__init__",
    "pesloss.building.BuildError.__base__.__subclasses__",
    "pesloss.losses.batch.hashlib.new",
    "pesloss.losses.batch.torch.load",
    "pesloss.losses.batch.Tensor",
    "pesloss.losses.batch.group_code",
    "pesloss.losses.properties.Property.__class__",
    "pesloss.losses.properties.PROPERTIES.get",
    "pesloss.cli.os.system",
    "pesloss.cli.hydra_app",
    "pesloss.names.difflib.sys.exit",
    "pesloss.__builtins__",
    "pesloss.__builtins__.eval",
    "pesloss.__loader__.exec_module",
    "pesloss.__class__",
    "pesloss.importlib.import_module",
    "pesloss.sys.exit",
    "peslossy.Loss",
]


@pytest.mark.parametrize("target", ATTACKS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda node: node,
        lambda node: [[node]],
        lambda node: part(inner={"deep": [node]}),
        lambda node: part(_args_=[node]),
        lambda node: {**node, "_partial_": True},
        lambda node: {**node, "_recursive_": False},
        lambda node: OmegaConf.create({"a": node, "b": part(c="${a}", _args_=["${a}"])}),
        lambda node: OmegaConf.create({"a": "o", "b": {"_target_": node["_target_"] + "${c}"}, "c": ""}),
    ],
    ids=["top", "list", "nested", "args", "partial", "unrecursive", "interpolated", "spelt by interpolation"],
)
def test_other_targets_are_refused(wrap, target):
    with pytest.raises(BuildError, match=r"not allowed|has no"):
        make(wrap({"_target_": target, "_args_": ["x"]}))


def test_refused_targets_are_not_even_imported():
    assert "this" not in sys.modules
    with pytest.raises(BuildError, match=r"'this\.d' is not allowed"):
        build({"_target_": "this.d"})
    assert "this" not in sys.modules


def test_foreign_names_inside_pesloss_are_called_what_they_are():
    with pytest.raises(
        BuildError, match=r"'pesloss\.building\.ModuleType' is not allowed: it is builtins\.module"
    ):
        build({"_target_": "pesloss.building.ModuleType"})


@pytest.mark.parametrize(
    ("target", "nearest"),
    [
        ("pesloss.losses.properties.Proprty", "Property"),
        ("pesloss.losses.propertys.Property", "properties"),
        ("pesloss.loses.properties.Property", "losses"),
        ("peslos.losses.properties.Property", "pesloss"),
        ("torch.optim.AdmW", "torch.optim.AdamW"),
        (f"{__name__}.Sprng", f"{__name__}.Spring"),
    ],
)
def test_misspelt_targets_are_answered_with_the_nearest(target, nearest):
    with pytest.raises(BuildError, match=rf"^x: .*; did you mean '{nearest}'\?"):
        make({"x": {"_target_": target}})


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_every_listed_name_is_a_class_of_that_name(name):
    target = pkgutil.resolve_name(name)
    assert inspect.isclass(target) and target.__name__ == name.rpartition(".")[2]


def test_classes_of_pesloss_are_built_by_any_public_name(monkeypatch):
    monkeypatch.setattr(pesloss, "Property", Property, raising=False)
    assert build({"_target_": "pesloss.Property", "name": "spin"}) == Property("spin")


def test_marked_functions_of_pesloss_are_built(monkeypatch):
    def recipe(name: str) -> Property:
        return Property(name)

    recipe.__module__ = "pesloss.recipes.mine"
    monkeypatch.setattr("pesloss.losses.properties.recipe", recipe, raising=False)
    node = {"_target_": "pesloss.losses.properties.recipe", "name": "spin"}
    with pytest.raises(BuildError, match=r"not allowed: it is pesloss\.recipes\.mine"):
        build(node)
    buildable(recipe)
    assert build(node) == Property("spin")


def test_abstract_classes_are_refused_before_they_are_called(monkeypatch):
    from abc import ABC, abstractmethod

    class Penalty(torch.nn.Module, ABC):
        @abstractmethod
        def forward(self) -> None: ...

    Penalty.__module__ = "pesloss.losses.penalties"
    monkeypatch.setattr("pesloss.losses.properties.Penalty", Penalty, raising=False)
    with pytest.raises(BuildError, match="Penalty is abstract"):
        build({"_target_": "pesloss.losses.properties.Penalty"})


def test_code_allows_exact_names_for_one_call_or_for_all(monkeypatch):
    monkeypatch.setattr(module, "_ALLOWED", set())
    node = spring(stiffness=1.0)
    with pytest.raises(BuildError, match="not allowed"):
        build(node)
    assert isinstance(build(node, allow=ALLOWED), Spring)
    with pytest.raises(BuildError, match="not allowed"):
        build(node)
    allow(*ALLOWED)
    assert isinstance(build(node), Spring)


@pytest.mark.parametrize("name", ["torch.*", "torch.", "torch", "", "a.b:c"])
def test_code_cannot_allow_more_than_a_name(name):
    with pytest.raises(ValueError, match="exact dotted name"):
        build({}, allow=name)
    with pytest.raises(ValueError, match="exact dotted name"):
        allow(name)


def test_a_config_cannot_allow_anything():
    with pytest.raises(BuildError, match=r"'os\.system' is not allowed"):
        build({"_target_": "os.system", "allow": ["os.system"], "_args_": ["true"]})


def test_allowed_names_that_do_not_exist_are_reported():
    with pytest.raises(BuildError, match="allowed but cannot be imported"):
        build({"_target_": "torch.optim.Nothing"}, allow=["torch.optim.Nothing"])
    with pytest.raises(BuildError, match=r"cannot be called: it is the module torch\.optim"):
        build({"_target_": "torch.optim"}, allow=["torch.optim"])


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'mace'", name="mace")

    monkeypatch.setattr(module.importlib, "import_module", fail)
    with pytest.raises(
        BuildError, match=r"pesloss\.models\.mace needs the package 'mace', which is not installed"
    ):
        build({"_target_": "pesloss.models.mace.Mace"})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"weights": {"force": 2.0}}, "Unknown term 'force'; did you mean 'forces'"),
        ({"huber_delta": 0.1}, "acts on nothing"),
        ({"hubr_delta": 0.1}, "Unknown argument 'hubr_delta'; did you mean 'huber_delta'"),
    ],
)
def test_a_loss_explains_a_wrong_argument(override, message):
    node = {"_target_": "pesloss.NormalLoss", "terms": {"forces": {}}, **override}
    with pytest.raises(BuildError, match=message):
        build({"loss": node})


class Coil:
    """Something with a parameter of every simple kind."""

    def __init__(
        self,
        stiffness: float = 1.0,
        turns: int = 3,
        name: str = "coil",
        damped: bool = False,
        form: Literal["linear", "cubic"] = "linear",
        length: float | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.stiffness = stiffness


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stiffness", "stiff", "a number, got 'stiff'"),
        ("stiffness", True, "a number, got True"),
        ("stiffness", None, "a number, got None"),
        ("turns", 2.5, "a whole number, got 2.5"),
        ("name", 3, "a word, got 3"),
        ("damped", "no", "true or false, got 'no'"),
        ("length", "long", "a number or null, got 'long'"),
        ("weights", 3.0, r"a mapping \(each a number\) or null, got 3"),
        ("weights", ["forces"], r"a mapping \(each a number\) or null, got \['forces'\]"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_before_the_call(key, value, words):
    name = f"{Coil.__module__}.Coil"
    with pytest.raises(BuildError, match=rf"model\.{key}: {name} takes {words}"):
        build({"model": {"_target_": name, key: value}}, allow=[name])


def test_a_value_of_the_wrong_kind_is_named_wherever_it_stands():
    name = f"{Coil.__module__}.Coil"
    for node in (
        {"weights": {"forces": "2"}},
        {"_args_": [1.0, 3, "coil", False, "linear", 1.0, {"forces": "2"}]},
    ):
        with pytest.raises(BuildError, match=r"^model\.weights\.forces: .* takes a number, got '2'"):
            build({"model": {"_target_": name, **node}}, allow=[name])


def test_a_word_that_is_no_choice_gets_the_nearest():
    node = {"_target_": "pesloss.Property", "name": "spin", "rows": "atoms"}
    with pytest.raises(BuildError, match=r"spin\.rows: pesloss\.Property: .* did you mean 'atom'"):
        build({"spin": node})


def test_values_of_the_right_kind_pass():
    name = f"{Coil.__module__}.Coil"
    good = {
        "stiffness": 2,
        "turns": 1,
        "name": "a",
        "damped": True,
        "form": "cubic",
        "length": None,
        "weights": {},
    }
    assert build({"_target_": name, **good}, allow=[name]).stiffness == 2


def test_an_optimizer_refuses_a_word_for_its_rate():
    with pytest.raises(BuildError, match=r"optimizer\.lr: torch\.optim\.Adam takes .*, got 'fast'"):
        build({"optimizer": {"_target_": "torch.optim.Adam", "params": [], "lr": "fast"}})

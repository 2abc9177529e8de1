"""The only door from a config to an object: each ``_target_`` becomes the loss, model or optimizer it names.

All nodes are checked first: whether the target may be built at all, and whether the keys are its parameters.
Only then is anything called, from the innermost node outwards.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, TypeVar

from omegaconf import OmegaConf

from pesloss.arguments import Pending, misfits
from pesloss.names import unknown

F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE = "pesloss"
_SPECIAL = frozenset({"_target_", "_args_", "_partial_", "_recursive_", "_convert_"})
_OPTIMIZERS = "Adadelta Adafactor Adagrad Adam AdamW Adamax ASGD LBFGS NAdam RAdam RMSprop Rprop SGD"
_SCHEDULERS = (
    "ChainedScheduler ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR "
    "LinearLR MultiStepLR OneCycleLR PolynomialLR ReduceLROnPlateau SequentialLR StepLR"
)
# Whole names: a prefix such as "torch.nn." would let "torch.nn.functional.torch.hub.load" through
FOREIGN = frozenset(
    {f"torch.optim.{name}" for name in _OPTIMIZERS.split()}
    | {f"torch.optim.lr_scheduler.{name}" for name in _SCHEDULERS.split()}
)
"""Targets outside pesloss that a config may name."""

PLAIN = frozenset(
    {
        "pesloss.data.dataset.Bundled",
        "pesloss.data.dataset.Files",
        "pesloss.data.reading.files.File",
        "pesloss.losses.properties.Property",
        "pesloss.training.loggers.CSV",
        "pesloss.training.loggers.TensorBoard",
        "pesloss.training.loggers.WandB",
        "pesloss.training.trainer.Trainer",
    }
)
"""Classes of pesloss that a config may build though they are no modules of torch, by where they are defined.

None of them may touch a file when it is built: they are told the folder of the run later.
"""

_ALLOWED: set[str] = set()


class BuildError(ValueError):
    """A config node that no object can be built from."""


def buildable(function: F) -> F:
    """Mark a function of pesloss as one that a config may call; its modules need no mark."""
    function.__dict__["_buildable"] = True
    return function


def allow(*names: str) -> None:
    """Let configs of this process build other projects' classes, each by its exact dotted name.

    For Python code that brings its own parts; a config cannot do this.

    Raises:
        ValueError: if a name is not dotted or holds a wildcard.
    """
    _ALLOWED.update(_exact(names))


def permitted(name: str) -> Callable[..., Any]:
    """What a ``_target_`` of this name would call.

    Raises:
        BuildError: if a config may not build it.
    """
    return _Planner(FOREIGN | _ALLOWED).target(name, "")


def build(node: Any, /, *args: Any, allow: Iterable[str] = (), **kwargs: Any) -> Any:
    """The object that a config describes: each ``_target_`` is called with the other keys of its node.

    Targets get plain lists and dicts, whatever OmegaConf containers the config is made of. In a node,
    ``_args_`` lists positional arguments, ``_partial_: true`` gives a function that waits for the rest, and
    ``_recursive_: false`` hands nodes below over as plain dicts.

    Args:
        node: config, dict, list or plain value; it is not changed.
        args: positional arguments for the outermost target.
        allow: exact dotted names of targets outside pesloss that may be built as well.
        kwargs: keyword arguments for the outermost target, taken before those in the config.

    Raises:
        BuildError: if a target is not allowed or does not exist, if it has no such parameter or lacks one,
            or if calling it fails (the original error is the cause).
        omegaconf.errors.OmegaConfBaseException: if a value is missing or an interpolation leads nowhere.

    Example:
        >>> node = {"_target_": "fractions.Fraction", "numerator": 1, "denominator": 3}
        >>> build(node, allow=["fractions.Fraction"])
        Fraction(1, 3)
    """
    path = node._get_full_key(None) if OmegaConf.is_config(node) else ""
    planner = _Planner(FOREIGN | _ALLOWED | _exact(allow))
    node = _plain(node)
    if not args and not kwargs:
        return _execute(planner.plan(node, path))
    if not isinstance(node, dict) or "_target_" not in node:
        raise BuildError(f"{_at(path)}arguments were given, but there is no _target_ to take them.")
    return _execute(planner.call(node, path, args, kwargs))


@dataclass(frozen=True)
class _Call(Pending):
    """A checked call that has not happened yet; ``args`` and ``kwargs`` may hold further ones."""

    path: str
    name: str
    target: Callable[..., Any]
    partial: bool
    extra: tuple[Any, ...]
    args: list[Any]
    extra_kwargs: dict[str, Any]
    kwargs: dict[str, Any]

    def bind(self, function: Callable[..., Any]) -> Any:
        return function(*self.extra, *self.args, **self.kwargs, **self.extra_kwargs)

    def execute(self) -> Any:
        ready = replace(self, args=_execute(self.args), kwargs=_execute(self.kwargs))
        _check_types(ready)
        if self.partial:
            return ready.bind(functools.partial(functools.partial, self.target))
        try:
            return ready.bind(self.target)
        except Exception as error:
            raise BuildError(f"{_at(self.path)}{self.name}: {_text(error)}") from error


@dataclass(frozen=True)
class _Planner:
    """Turns nodes into checked calls; ``names`` are the targets outside pesloss that may be built."""

    names: frozenset[str]

    def plan(self, node: Any, path: str) -> Any:
        node = _plain(node)
        if isinstance(node, dict):
            if "_target_" in node:
                return self.call(node, path, (), {})
            _check_special(node, path)
            return {key: self.plan(value, _below(path, key)) for key, value in node.items()}
        if type(node) in (list, tuple):
            return type(node)(self.plan(value, f"{path}[{index}]") for index, value in enumerate(node))
        return node

    def call(
        self, node: dict[Any, Any], path: str, extra: tuple[Any, ...], extra_kwargs: dict[str, Any]
    ) -> _Call:
        _check_special(node, path)
        name = node["_target_"]
        target = self.target(name, path)
        inner = self.plan if _flag(node, "_recursive_", True, path) else _as_data
        positional = _plain(node.get("_args_", []))
        if not isinstance(positional, list):
            raise BuildError(f"{_at(path)}_args_ must be a list, got {positional!r}.")
        keys = [key for key in node if key not in _SPECIAL and key not in extra_kwargs]
        call = _Call(
            path=path,
            name=name,
            target=target,
            partial=_flag(node, "_partial_", False, path),
            extra=tuple(map(_plain, extra)),
            args=inner(positional, _below(path, "_args_")),
            extra_kwargs={key: _plain(value) for key, value in extra_kwargs.items()},
            kwargs={key: inner(node[key], _below(path, key)) for key in keys},
        )
        _check_arguments(call)
        return call

    def target(self, name: Any, path: str) -> Callable[..., Any]:
        """The class or function of a dotted name, if it may be built."""
        if not isinstance(name, str):
            raise BuildError(f"{_at(path)}_target_ must be a dotted name, got {name!r}.")
        if name in self.names:
            return _foreign(name, path)
        if name.startswith(f"{_PACKAGE}."):
            return _own(name, path)
        raise BuildError(
            f"{_at(path)}target '{name}' is not allowed{_nearest(name, self.names)} A config builds classes "
            f"of {_PACKAGE}, torch's optimizers and schedulers, and what Python code adds by its exact name "
            "with pesloss.building.allow('package.module.Class')."
        )


def _own(name: str, path: str) -> Callable[..., Any]:
    """A class of pesloss, or a function it marks as buildable, by its name in the module or package given."""
    if any(part.startswith("_") or not part.isidentifier() for part in name.split(".")):
        raise BuildError(f"{_at(path)}target '{name}' is not allowed: it is not a public name.")
    module_name, _, attribute = name.rpartition(".")
    module = _own_module(module_name, path)
    if attribute not in _public(module):
        raise BuildError(f"{_at(path)}{module_name} has {_no('target', attribute, _buildable_names(module))}")
    target = getattr(module, attribute)
    if not _is_own(target):
        raise BuildError(
            f"{_at(path)}target '{name}' is not allowed: it is {_describe(target)}, and of {_PACKAGE} "
            "a config builds only losses, models and their parts, data, trainers and loggers."
        )
    return target


def _own_module(name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] != _PACKAGE:
            # `from None`: the sentence says all there is to the error
            raise BuildError(
                f"{_at(path)}{name} needs the package '{missing}', which is not installed."
            ) from None
    parent, _, child = missing.rpartition(".")
    package = importlib.import_module(parent)
    siblings = [module.name for module in pkgutil.iter_modules(getattr(package, "__path__", []))]
    raise BuildError(f"{_at(path)}{parent} has {_no('module', child, siblings)}")


def _foreign(name: str, path: str) -> Callable[..., Any]:
    try:
        target = pkgutil.resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise BuildError(f"{_at(path)}target '{name}' is allowed but cannot be imported: {error}.") from error
    if not callable(target):
        raise BuildError(
            f"{_at(path)}target '{name}' is allowed but cannot be called: it is {_describe(target)}."
        )
    return target


def _is_own(target: Any) -> bool:
    """Whether pesloss itself defines this class or marked function for configs, however it was reached."""
    module = getattr(target, "__module__", None)
    if not isinstance(module, str) or module.partition(".")[0] != _PACKAGE:
        return False
    if isinstance(target, type):
        return f"{module}.{target.__qualname__}" in PLAIN or _is_module(target)
    return inspect.isfunction(target) and "_buildable" in target.__dict__


def _is_module(target: type) -> bool:
    """Whether a class is a module of torch, which nobody can have derived from without importing it."""
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(target, torch.nn.Module)


def _public(module: ModuleType) -> set[str]:
    return {name for name in {*vars(module), *getattr(module, "__all__", ())} if not name.startswith("_")}


def _buildable_names(module: ModuleType) -> list[str]:
    # what is not loaded yet stays so: a misspelt name must not import everything there is
    lazy = set(getattr(module, "__all__", ())) - vars(module).keys()
    return sorted(lazy | {name for name, value in vars(module).items() if _is_own(value)})


def _check_special(node: dict[Any, Any], path: str) -> None:
    """Refuse a misspelt ``_partial_`` and the like, which would otherwise be an argument or do nothing."""
    needs_target = "_target_" not in node
    for key in map(str, node):
        is_special = key.startswith("_") and (key.endswith("_") or not needs_target)
        if is_special and key not in _SPECIAL:
            raise BuildError(f"{_at(path)}{unknown('key', key, _SPECIAL)}")
        if is_special and needs_target:
            raise BuildError(f"{_at(path)}'{key}' stands without a '_target_'.")
    if node.get("_convert_", "all") != "all":
        raise BuildError(
            f"{_at(path)}_convert_ can only be 'all', got {node['_convert_']!r}: "
            "targets get plain lists and dicts."
        )


def _check_arguments(call: _Call) -> None:
    """Compare the keys of a node with the parameters of its target."""
    if inspect.isabstract(call.target):
        raise BuildError(f"{_at(call.path)}{call.name} is abstract; name one of the classes derived from it.")
    try:
        signature = _signature(call.target)
    except ValueError:  # some classes written in C do not tell
        return
    parameters = signature.parameters
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
        named = [
            name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        for key in (*call.kwargs, *call.extra_kwargs):
            if key not in named:
                raise BuildError(f"{_at(call.path)}{call.name} has {_no('parameter', key, named)}")
    try:
        call.bind(signature.bind_partial if call.partial else signature.bind)
    except TypeError as error:
        raise BuildError(f"{_at(call.path)}{call.name}: {error}; it takes {_short(signature)}.") from None
    _check_types(call)


def _check_types(call: _Call) -> None:
    for key, message in misfits(call.target, {**_positional(call), **call.kwargs}):
        between = ": " if message.startswith("Unknown") else " "
        raise BuildError(f"{_at(_below(call.path, key))}{call.name}{between}{message}")


def _positional(call: _Call) -> dict[str, Any]:
    """Values of ``_args_`` by the names of the parameters they are for."""
    try:
        parameters = _signature(call.target).parameters.values()
    except ValueError:  # some classes written in C do not tell
        return {}
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return dict(zip(names[len(call.extra) :], call.args, strict=False))


def _signature(target: Callable[..., Any]) -> inspect.Signature:
    """Parameters of a target; a module that takes none has those of torch's, which are any at all."""
    if isinstance(target, type) and getattr(target.__init__, "__module__", "") == "torch.nn.modules.module":
        return inspect.Signature()
    return inspect.signature(target)


def _short(signature: inspect.Signature) -> str:
    """A signature without its types."""
    empty = inspect.Parameter.empty
    parameters = [parameter.replace(annotation=empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def _execute(plan: Any) -> Any:
    if isinstance(plan, _Call):
        return plan.execute()
    if type(plan) is dict:
        return {key: _execute(value) for key, value in plan.items()}
    if type(plan) in (list, tuple):
        return type(plan)(map(_execute, plan))
    return plan


def _plain(node: Any) -> Any:
    """Plain containers with every interpolation followed."""
    if not OmegaConf.is_config(node):
        return node
    return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)


def _flag(node: dict[Any, Any], key: str, default: bool, path: str) -> bool:
    value = node.get(key, default)
    if not isinstance(value, bool):
        raise BuildError(f"{_at(path)}{key} must be true or false, got {value!r}.")
    return value


def _as_data(node: Any, path: str) -> Any:
    """A node that its target takes as it is written; whoever builds it later checks it then."""
    return _plain(node)


def _exact(names: Iterable[str]) -> frozenset[str]:
    """Names as they are, refused where one could mean more than one object."""
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if "." not in name or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(
                f"A target is allowed by its exact dotted name, 'package.module.Class'; got {name!r}."
            )
    return frozenset(names)


def _nearest(name: str, names: Iterable[str]) -> str:
    """What a target that is not allowed may have meant: another package, or another name in the package."""
    package, packages = name.partition(".")[0], {known.partition(".")[0] for known in names} | {_PACKAGE}
    if package not in packages:
        name, names = package, packages
    return unknown("target", name, names).removeprefix(f"Unknown target '{name}'").partition(" Known")[0]


def _no(what: str, name: object, known: Iterable[str]) -> str:
    return unknown(what, name, known).replace("Unknown", "no", 1)


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _at(path: str) -> str:
    return f"{path}: " if path else ""


def _describe(target: Any) -> str:
    if isinstance(target, ModuleType):
        return f"the module {target.__name__}"
    name = getattr(target, "__qualname__", None)
    return f"{target.__module__}.{name}" if name else f"an object of type {type(target).__name__}"


def _text(error: BaseException) -> str:
    """What an error says; a KeyError would print its sentence in quotes."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error) or type(error).__name__

"""What a config may construct: all of it is listed here, and none of it touches a file when it is built."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pesloss
from pesloss.building import FOREIGN, PLAIN, BuildError, build, permitted
from tests.safety.watch import watched

TOUCHING = {
    "pesloss.data.dataset": {"pathlib"},  # reads files when told to load, writes packed ones to `cache`
    "pesloss.data.reading.files": {"glob", "pathlib"},  # looks which files fit a pattern
    "pesloss.recipes.recipe": {"importlib"},  # reads the recipes that come with pesloss
    "pesloss.training.loggers": {
        "csv",
        "json",
        "os",
        "pathlib",
        "torch.utils",
        "wandb",
    },  # in the run's folder
}
"""Modules whose classes a config may build and that have to do with files, and by what."""
FILES = {
    *(
        "builtins",
        "csv",
        "ctypes",
        "glob",
        "h5py",
        "importlib",
        "io",
        "json",
        "lmdb",
        "mmap",
        "os",
        "pathlib",
    ),
    *(
        "pickle",
        "runpy",
        "shelve",
        "shutil",
        "socket",
        "sqlite3",
        "subprocess",
        "tempfile",
        "urllib",
        "wandb",
    ),
    *("ase.db", "ase.io", "torch.hub", "torch.jit", "torch.package", "torch.serialization", "torch.utils"),
}
"""Modules that have to do with files, programs and networks."""
FUNCTIONS = {"open", "eval", "exec", "compile", "__import__"}
METHODS = {"save", "savez", "tofile", "fromfile", "loadtxt", "write_text", "write_bytes", "unlink", "system"}


def modules() -> Iterator[Any]:
    """All of pesloss."""
    for found in pkgutil.walk_packages(pesloss.__path__, "pesloss."):
        if not found.name.rpartition(".")[2].startswith("_"):
            yield importlib.import_module(found.name)


def names() -> Iterator[str]:
    """Every dotted name that a config could try: what each module defines or has imported."""
    for module in modules():
        known = {*vars(module), *getattr(module, "__all__", ())}
        yield from (f"{module.__name__}.{name}" for name in sorted(known))


def buildable() -> dict[str, Any]:
    """What of it is built, by where it is defined."""
    found = {}
    for name in names():
        try:
            target = permitted(name)
        except BuildError:
            continue
        found[f"{target.__module__}.{target.__qualname__}"] = target
    return found


BUILDABLE = buildable()


def test_a_config_builds_modules_and_what_is_listed():
    others = {name for name, target in BUILDABLE.items() if not _is_module(target)}
    assert others == PLAIN


def test_all_that_is_built_is_our_own():
    assert {name.partition(".")[0] for name in BUILDABLE} == {"pesloss"}
    packages = {".".join(name.split(".")[:2]) for name in set(BUILDABLE) - PLAIN}
    assert packages <= {f"pesloss.{part}" for part in ("data", "losses", "models", "recipes", "weighting")}
    assert {name for name in BUILDABLE if name.startswith("pesloss.data")} - PLAIN == {
        "pesloss.data.references.References"
    }


def _is_module(target: Any) -> bool:
    return isinstance(target, type) and issubclass(target, torch.nn.Module)


def homes() -> dict[str, Any]:
    """Modules that what is built is defined in."""
    return {target.__module__: inspect.getmodule(target) for target in BUILDABLE.values()}


@pytest.mark.parametrize("name", sorted(homes()))
def test_who_has_to_do_with_files_is_listed(name):
    tree = ast.parse(inspect.getsource(homes()[name]))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    touching = {known for known in FILES for one in imported if f"{one}.".startswith(f"{known}.")}
    assert touching == TOUCHING.get(name, set())


@pytest.mark.parametrize("name", sorted(set(homes()) - set(TOUCHING)))
def test_the_others_open_and_run_nothing(name):
    tree = ast.parse(inspect.getsource(homes()[name]))
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not {function.id for function in called if isinstance(function, ast.Name)} & FUNCTIONS
    assert not {function.attr for function in called if isinstance(function, ast.Attribute)} & METHODS


EXAMPLES: dict[str, dict[str, Any]] = {
    "pesloss.data.dataset.Bundled": {"cache": "elsewhere"},
    "pesloss.data.dataset.Files": {"train": "a.xyz", "cache": "elsewhere"},
    "pesloss.data.reading.files.File": {"path": "a.xyz"},
    "pesloss.losses.properties.Property": {"name": "../x"},
    "pesloss.training.loggers.CSV": {},
    "pesloss.training.loggers.TensorBoard": {},
    "pesloss.training.loggers.WandB": {"project": "../x", "mode": "online", "name": "../x", "group": "/tmp"},
    "pesloss.training.trainer.Trainer": {},
}


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_building_them_changes_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with watched() as events:
        build({"_target_": name, **EXAMPLES[name]})
    assert not events and not list(Path().iterdir())


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_foreign_classes_are_optimizers_and_schedules(name):
    bases = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
    assert issubclass(permitted(name), bases)

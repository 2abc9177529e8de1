"""Values and gradients of a project's own losses; runs in the project's environment.

``python -m tests.parity.run mace --seeds 0 --out recorded.json``
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.parity.cases import Case, cases_of
from tests.parity.drawing import RANKS, Drawn


def measured(case: Case, drawn: Drawn) -> dict[str, Any]:
    """Total and gradient of every prediction, as plain numbers."""
    total = case.original(drawn)
    names = list(drawn.predictions)
    found = torch.autograd.grad(total.sum(), [drawn.predictions[name] for name in names], allow_unused=True)
    gradients = {
        name: (torch.zeros_like(drawn.predictions[name]) if gradient is None else gradient).tolist()
        for name, gradient in zip(names, found, strict=True)
    }
    return {"total": float(total.detach().sum()), "gradients": gradients}


def on_ranks(case: Case, seed: int) -> dict[str, Any]:
    """The same from two processes with unequal batches, gradients averaged as data-parallel training does."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (case.project, case.name, seed, folder), nprocs=len(RANKS))
        parts = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(len(RANKS))]
    world = len(parts)

    def together(name: str) -> list[Any]:
        rows = [torch.tensor(part["gradients"][name], dtype=torch.float64) / world for part in parts]
        return torch.cat(rows).tolist()

    return {
        "total": sum(part["total"] for part in parts) / world,
        "gradients": {name: together(name) for name in parts[0]["gradients"]},
    }


def _rank(rank: int, project: str, name: str, seed: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(len(RANKS)), "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=len(RANKS))
    case = cases_of(project)[name]
    part = case.drawing.draw(seed).take(RANKS[rank])
    (Path(folder) / f"{rank}.json").write_text(json.dumps(measured(case, part)))
    dist.barrier()
    os._exit(0)  # what is written is all that is wanted; threads of the projects may abort a slower end


def results(cases: Mapping[str, Case], seeds: list[int]) -> dict[str, Any]:
    """Figures of every case by seed; those on ranks with a mark."""
    found: dict[str, Any] = {}
    for name, case in cases.items():
        found[name] = {str(seed): measured(case, case.drawing.draw(seed)) for seed in seeds}
        if case.ranks:
            found[name] |= {f"{seed} on ranks": on_ranks(case, seed) for seed in seeds}
        print(f"{case.project} {name}: {found[name][str(seeds[0])]['total']:.6g}", flush=True)
    return found


def _versions(project: str) -> dict[str, str]:
    wanted = importlib.import_module(f"tests.parity.peers.{project}")
    packages = [*getattr(wanted, "REQUIREMENTS", []), *getattr(wanted, "PACKAGES", [])]
    names = [name.partition("=")[0].partition("[")[0] for name in packages]
    return {name: _version(name) for name in ["torch", *names]}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "single module"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="names of cases")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = cases_of(options.project)
    cases = {name: case for name, case in cases.items() if not options.only or name in options.only}
    content = {"versions": _versions(options.project), "cases": results(cases, options.seeds)}
    options.out.write_text(_compact(content) + "\n", encoding="utf-8")


def _compact(content: Mapping[str, Any]) -> str:
    """JSON with a line for every total and every gradient."""
    text = json.dumps(content, indent=1)
    lines: list[str] = []
    depth = 0  # of lists: their numbers stay on one line
    for line in text.splitlines():
        if depth:
            lines[-1] += line.strip() if line.strip().startswith("]") else f" {line.strip()}"
        else:
            lines.append(line)
        depth += line.count("[") - line.count("]")
    return "\n".join(lines).replace("[ ", "[")


if __name__ == "__main__":
    main()

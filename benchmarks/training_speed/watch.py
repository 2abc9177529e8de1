"""Run a training module and write down when its optimizer stepped: ``... watch OUT.json MODULE ARGUMENTS``.

Times are seconds since STARTED, the time in the environment at which the process was asked for.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook


def main() -> None:
    out, module, *arguments = sys.argv[1:]
    started = float(os.environ["STARTED"])
    wall: list[float] = []
    cpu: list[float] = []

    def note(*_: Any) -> None:
        wall.append(time.time() - started)
        cpu.append(time.process_time())

    def write() -> None:
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        numbers = {"steps": wall, "cpu": cpu, "total": time.time() - started, "rss_mib": rss}
        if os.environ.get("RANK", "0") == "0":
            Path(out).write_text(json.dumps(numbers), encoding="utf-8")

    register_optimizer_step_post_hook(note)
    atexit.register(write)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

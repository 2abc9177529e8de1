"""The results as a table and as plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PARTS = ("collate", "forward", "forces", "loss", "backward", "optimizer")
Results = dict[str, Any]


def table(results: Results) -> str:
    """Markdown: the parts of a step, then what a person waits for."""
    lines = [
        f"| CPU ms of a step | {' | '.join(PARTS)} | step | structures/s |",
        "|---|" + "---|" * (len(PARTS) + 2),
    ]
    for code, (row,) in results["step"].items():
        parts = " | ".join(f"{row[part]:.2f}" for part in PARTS)
        lines.append(
            f"| {code} | {parts} | {row['step']:.1f} | {1e3 * row['structures'] / row['step']:.0f} |"
        )
    lines += ["", "| command line | start-up, CPU s | epoch, CPU s | peak memory, MiB |", "|---|---|---|---|"]
    for code, (row,) in results["training"].items():
        lines.append(f"| {code} | {row['startup_s']:.1f} | {row['epoch_s']:.2f} | {row['rss_mib']:.0f} |")
    lines += ["", "| ranks x structures of each | step, wall ms | epoch, wall s |", "|---|---|---|"]
    for ranks, (row,) in results["ranks"].items():
        lines.append(f"| {ranks} | {row['step_wall_ms']:.1f} | {row['epoch_wall_s']:.2f} |")
    return "\n".join(lines) + "\n"


def growth(results: Results, path: Path) -> None:
    """How a step grows with atoms per structure, structures per batch and ranks."""
    figure, (atoms, structures, ranks) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for code, rows in results["atoms"].items():
        atoms.loglog(
            [row["atoms"] / row["structures"] for row in rows],
            [row["step"] for row in rows],
            "o-",
            label=code,
        )
    for code, rows in results["structures"].items():
        structures.loglog(
            [row["structures"] for row in rows], [row["step"] for row in rows], "o-", label=code
        )
    for axis, numbers in ((atoms, "atoms"), (structures, "structures")):
        rows = next(iter(results[numbers].values()))
        ticks = [row["atoms"] // (row["structures"] if numbers == "atoms" else 15) for row in rows]
        axis.set_xticks(ticks, list(map(str, ticks)))
        axis.minorticks_off()
        axis.set_yticks([5, 10, 20, 50, 100, 200, 500], ["5", "10", "20", "50", "100", "200", "500"])
        axis.grid(alpha=0.25)
    atoms.set(xlabel="atoms per structure (10 structures)", ylabel="CPU ms of a step")
    structures.set(xlabel="structures per batch (15 atoms)", ylabel="CPU ms of a step")
    atoms.legend()
    names = list(results["ranks"])
    ranks.bar(names, [results["ranks"][name][0]["epoch_wall_s"] for name in names])
    ranks.set(xlabel="ranks x structures of each", ylabel="wall s of an epoch")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def steps(results: Results, path: Path) -> None:
    """What a step is made of."""
    figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
    codes = list(results["step"])
    left = [0.0] * len(codes)
    for part in PARTS:
        values = [results["step"][code][0][part] for code in codes]
        axes.barh(codes, values, left=left, label=part)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set(xlabel="CPU ms of a step (10 structures of 15 atoms)")
    axes.invert_yaxis()
    axes.legend(ncols=2, fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)

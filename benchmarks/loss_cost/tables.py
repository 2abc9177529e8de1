"""Tables of what losses cost, in Markdown."""

from __future__ import annotations

from typing import Any

from tests.parity.cases import cases_of

Rows = list[dict[str, Any]]


def own_table(rows: Rows) -> str:
    """A line for each loss; a column for each size, with ratios to the plain and to the weighted one."""
    sizes = [row["size"].replace("x", " × ") for row in rows]
    lines = [["µs", *sizes, "kernels", "waits", f"MB, {sizes[-1]}"]]
    lines += [["memory-bandwidth limit", *(f"{row['limit_us']:.0f}" for row in rows), "", "", ""]]
    for name in rows[0]["runs"]:
        found = [row["runs"][name] for row in rows]
        lines.append([name, *(_time(run) for run in found), *_operations(found[-1])])
    return _markdown(lines)


def recipes_table(rows: Rows) -> str:
    """A line for each comparison; original → ours by size, as ratios to the plain loss of their process."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    lines = [["recipe", "case", *(size.replace("x", " × ") for size in sizes), "kernels", "waits", "MB"]]
    for project, case in dict.fromkeys((row["project"], row["case"]) for row in rows):
        found = [row for row in rows if (row["project"], row["case"]) == (project, case)]
        pairs = [(row["runs"]["loss"], row["ours"]["loss"]) for row in found]
        operations = zip(*(_operations(run) for run in pairs[-1]), strict=True)
        lines.append(
            [
                cases_of(project)[case].loss or project,
                case,
                *(_pair(*pair) for pair in pairs),
                *(f"{theirs} → {ours}" for theirs, ours in operations),
            ]
        )
    return _markdown(lines)


def _time(run: dict[str, float]) -> str:
    return f"{run['us']:.0f} (×{run['to_plain']:.1f}, ×{run['to_weighted']:.2f})"


def _pair(theirs: dict[str, float], ours: dict[str, float]) -> str:
    """Ratios of both to the plain loss, and of ours to theirs; bold where ours is slower."""
    relative = f"{ours['to_plain'] / theirs['to_plain']:.2f}"
    relative = f"**{relative}**" if ours["to_plain"] > theirs["to_plain"] else relative
    return f"{theirs['to_plain']:.1f} → {ours['to_plain']:.1f}: {relative}"


def _operations(run: dict[str, float]) -> list[str]:
    if "kernels" not in run:
        return ["", "", ""]
    return [str(run["kernels"]), str(run["waits"]), f"{run['bytes'] / 1e6:.2f}"]


def _markdown(lines: list[list[str]]) -> str:
    header, *body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([header, f"|{'---|' * len(lines[0])}", *body, "", ""])

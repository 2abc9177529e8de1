"""Parity plots of the members of the front, as their trainings drew them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from pesloss.report.sweep.comparison import Comparison
from pesloss.report.sweep.markup import badge, setting_name
from pesloss.report.sweep.reading import Job
from pesloss.report.sweep.texts import plural

MAX_BYTES = 4_000_000
"""Of all parity plots in the page together."""
PNG = b"\x89PNG\r\n\x1a\n"


def parity_plots(comparison: Comparison, limit: int) -> tuple[list[str], str]:
    """The parity plots of the front's members, and a sentence about those that are left out."""
    shown, size, left = [], 0, 0
    for place, setting in enumerate(comparison.front, 1):
        paths = _paths(comparison.best_job(setting))
        room = sum(path.stat().st_size for path in paths)
        if paths and len(shown) < limit and size + room <= MAX_BYTES:
            size += room
            shown.append(_parity(place, setting_name(setting), paths))
        else:
            left += bool(paths)
    return shown, f"{plural(left, 'more member')} of the front left out." if left else ""


def _paths(job: Job | None) -> list[Path]:
    """The plots of a job; what is no picture is not among them."""
    return [path for path in sorted(job.folder.glob("parity_*.png")) if _is_picture(path)] if job else []


def _is_picture(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(PNG)) == PNG


def _parity(place: int, name: str, paths: Sequence[Path]) -> str:
    images = "".join(
        f'<img loading="lazy" alt="{escape(path.stem.replace("_", " of ", 1))}, {escape(name)}" '
        f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
        for path in paths
    )
    return f'<h3>{badge(place)} {escape(name)}</h3><div class="panels">{images}</div>'

"""The page of a sweep: one file that opens from disk and asks for nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from string import Template

from pesloss.report.sweep.against import against
from pesloss.report.sweep.commands import job_command, sweep_command
from pesloss.report.sweep.comparison import Comparison
from pesloss.report.sweep.curves import learning
from pesloss.report.sweep.front import front_plots
from pesloss.report.sweep.heat import heat_maps
from pesloss.report.sweep.markup import badge, breakable
from pesloss.report.sweep.parity import parity_plots
from pesloss.report.sweep.reading import STATES, Job
from pesloss.report.sweep.settings import Mean
from pesloss.report.sweep.tables import BESIDE, Row, rows, sentences
from pesloss.report.sweep.texts import Digits
from pesloss.terminal import clock

MAX_KEYS = 8
"""Keys, and pairs of them, that are plotted."""
SPREAD = "± is the standard deviation over seeds."


def page(comparison: Comparison, parity: int = 6) -> str:
    """A sweep as a page.

    Args:
        comparison: what is told.
        parity: how many members of the front are shown with their parity plots.
    """
    parts = {
        "Settings": _settings(comparison),
        "Pareto front": _front(comparison),
        "Errors against settings": _against(comparison),
        "Heat maps": _heat(comparison),
        "Learning curves": _panels(learning(comparison)),
        "Parity plots": _parity(comparison, parity),
        "Failures": _failures(comparison),
        "Jobs and commands": _jobs(comparison),
    }
    shown = {name: part for name, part in parts.items() if part}
    command = sweep_command(comparison.sweep)
    return Template(_part("html")).substitute(
        style=_part("css"),
        script=_part("js"),
        title=escape(f"Sweep {comparison.sweep.folder.resolve().name}"),
        command=f'<pre class="copy">{escape(command)}</pre>' if command else "",
        counts=_counts(comparison),
        summary="".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(comparison)),
        links="".join(f'<a href="#{_place(name)}">{name}</a>' for name in shown),
        sections="".join(
            f'<section id="{_place(name)}"><h2>{name}</h2>{part}</section>' for name, part in shown.items()
        ),
    )


def _part(ending: str) -> str:
    """The frame of the page, how it looks, or what sorts its tables."""
    return Path(__file__).with_suffix(f".{ending}").read_text(encoding="utf-8")


def _place(name: str) -> str:
    return name.lower().replace(" ", "-")


def _counts(comparison: Comparison) -> str:
    """How many jobs are in each state, in words above a bar."""
    found = {state: num for state, num in comparison.sweep.counts.items() if num}
    words = "".join(
        f"<li><i {_colour(s)}></i><b>{num}</b> {BESIDE.get(s, s)}</li>" for s, num in found.items()
    )
    bar = "".join(f'<i {_colour(state)[:-1]};flex:{num}"></i>' for state, num in found.items())
    return f'<ul class="counts">{words}</ul><div class="bar">{bar}</div>'


def _colour(state: str) -> str:
    return f'style="background:var(--s{STATES.index(state)})"'


# the table of settings


def _settings(comparison: Comparison) -> str:
    """The table of settings, the best first; a click on a head sorts it."""
    found = rows(comparison)
    words = [f"Errors of the {comparison.structures} structures. {SPREAD}"] if comparison.columns else []
    words += [f"Ranked by {comparison.score.label}."] if comparison.score else []
    words += ["Grey is what was stopped early."] if any(row.setting.is_dropped for row in found) else []
    return _note(words) + _compared(comparison, found, any(row.note for row in found))


def _compared(comparison: Comparison, found: Iterable[Row], notes: bool) -> str:
    """Settings with their errors; ``notes`` tells what became of other seeds."""
    body = (_cells(comparison, row, notes) for row in found)
    return _table(_heads(comparison, notes), body, "sortable")


def _heads(comparison: Comparison, notes: bool) -> Iterator[str]:
    yield _head("rank", True)
    yield _head("front", True)
    yield from (_head(_key(key), key in comparison.numeric_keys) for key in comparison.keys)
    for error in comparison.columns:
        yield _head(f"{escape(error.label)}<br>{_unit(error.unit)}", True)
    yield _head("seeds", True)
    yield _head("other seeds", False) if notes else ""


def _cells(comparison: Comparison, row: Row, notes: bool) -> str:
    cells = [_cell(str(row.rank or ""), True, row.rank), _cell(badge(row.front), True, row.front)]
    for key, text in zip(comparison.keys, row.values, strict=True):
        cells.append(_cell(escape(text), key in comparison.numeric_keys, text))
    for mean, digit, is_best in zip(row.means, comparison.digits.values(), row.is_best, strict=True):
        cells.append(_cell(_mean(mean, digit, is_best), True, None if mean is None else mean.value))
    cells.append(_cell(escape(row.seeds), True, row.seeds))
    cells += [_cell(escape(row.note), False)] if notes else []
    return _row(cells, "off" if row.setting.is_dropped or row.rank is None else "")


def _mean(mean: Mean | None, digits: Digits, is_best: bool) -> str:
    """A mean, and its spread at a place of its own, so that means stand below each other."""
    if mean is None:
        return '–<span class="s"></span>'
    value = f"<b>{digits.text(mean.value)}</b>" if is_best else digits.text(mean.value)
    return f'{value}<span class="s">{digits.spread(mean)}</span>'


# figures


def _front(comparison: Comparison) -> str:
    """The front as plots of every two errors, and its members."""
    if not comparison.has_front:
        return ""
    words = [
        "A setting is on the front if no other is as good in every one of "
        f"{', '.join(error.label for error in comparison.errors)} and better in one. The dashed line is the "
        "front of the two errors of a plot alone; whiskers are the standard deviation over seeds."
    ]
    members = (row for row in rows(comparison) if row.front is not None)
    return _note(words) + _panels(front_plots(comparison)) + _compared(comparison, members, False)


def _against(comparison: Comparison) -> str:
    """Errors against each number that varies."""
    keys = comparison.numeric_keys
    words = ["Means over seeds, with the standard deviation as a band."]
    if len(keys) > 1:
        words.append("A line is one combination of what else varies.")
    parts = (f"<h3>{breakable(key)}</h3>{_panels(against(comparison, key))}" for key in keys[:MAX_KEYS])
    return _note([*words, *_left(len(keys), "keys")]) + "".join(parts) if keys and comparison.columns else ""


def _heat(comparison: Comparison) -> str:
    """Errors at every two numbers that vary."""
    found = list(heat_maps(comparison))
    words = ["The darker a cell, the lower the error; the lowest is framed."]
    if len(comparison.keys) > 2:
        words.append("Where more varies, a cell is the lowest mean of its settings.")
    parts = (f"<h3>{breakable(name)}</h3>{_panels(maps)}" for name, maps in found[:MAX_KEYS])
    return _note([*words, *_left(len(found), "pairs")]) + "".join(parts) if found else ""


def _left(num: int, what: str) -> list[str]:
    return [f"{num - MAX_KEYS} more {what} are left out."] if num > MAX_KEYS else []


def _parity(comparison: Comparison, limit: int) -> str:
    """Parity plots of the front."""
    shown, left = parity_plots(comparison, limit)
    words = ["Of each member of the front its best seed.", left]
    return _note(words) + "".join(shown) if shown else ""


def _panels(figures: Iterable[str]) -> str:
    """Figures beside each other, as many as there is room for."""
    content = "".join(figures)
    return f'<div class="panels">{content}</div>' if content else ""


# jobs


def _failures(comparison: Comparison) -> str:
    """Jobs that failed, with what ended them."""
    failed = [job for job in comparison.sweep.jobs if job.state == "failed"]
    heads = [_head(name, False) for name in ("error", "overrides", "attempts", "folder")]
    texts = ((job.error, " ".join(job.overrides), str(job.attempts), job.name) for job in failed)
    body = (_row([_cell(escape(text), False) for text in found]) for found in texts)
    return _table(heads, body, "words") if failed else ""


def _jobs(comparison: Comparison) -> str:
    """What became of each job, and the command that trains it alone; folded."""
    sweep, score = comparison.sweep, comparison.score
    name = "" if score is None else f"{escape(score.label)}<br>{_unit(score.unit)}"
    numbers = [_head(name, True), _head("best epoch", True), _head("epochs", True), _head("time", True)]
    heads = [_head("job", False), _head("state", False), *(numbers if score else numbers[1:])]
    digits = comparison.digits[score] if score else Digits(0)
    body = (_job(comparison, job, digits) for job in sweep.jobs)
    table = _table([*heads, _head("command", False)], body, "sortable")
    return f"<details><summary>{len(sweep.jobs)} jobs</summary>{table}</details>"


def _job(comparison: Comparison, job: Job, digits: Digits) -> str:
    cells = [_cell(escape(job.name), False), _cell(_state(job.state), False)]
    if comparison.score is not None:
        error = job.errors.get(comparison.score.column)
        cells.append(_cell("–" if error is None else digits.text(error), True, error))
    done, total = job.epochs or ("–", "–")
    cells.append(_cell(str(job.best_epoch or "–"), True, job.best_epoch))
    cells.append(_cell(f"{done} of {total}", True, job.epochs and job.epochs[0]))
    cells.append(_cell("–" if job.seconds is None else clock(job.seconds), True, job.seconds))
    command = escape(job_command(comparison.sweep, job))
    return _row([*cells, f'<td><code class="copy">{command}</code></td>'])


def _state(state: str) -> str:
    return f"<i {_colour(state)}></i>{BESIDE.get(state, state)}"


# tables


def _table(heads: Iterable[str], body: Iterable[str], kind: str) -> str:
    """A table in a box of its own, in which it scrolls."""
    head, rows = "".join(heads), "".join(body)
    table = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="box">{table}</div>'


def _row(cells: Iterable[str], kind: str = "") -> str:
    return f"<tr{_class(kind)}>{''.join(cells)}</tr>"


def _head(content: str, is_number: bool) -> str:
    return f"<th{_class('n' if is_number else '')}>{content}</th>"


def _cell(content: str, is_number: bool, order: object = None) -> str:
    """A cell, with what it is sorted by if that is not what it shows."""
    by = "" if order is None else f' data-v="{escape(str(order))}"'
    return f"<td{_class('n' if is_number else '')}{by}>{content}</td>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _key(key: str) -> str:
    """A key of the config: where it is, and below that its name."""
    place, dot, name = key.rpartition(".")
    return f"{_unit(place + dot)}<br>{escape(name)}" if dot else escape(name)


def _unit(unit: str) -> str:
    return f'<span class="unit">{escape(unit)}</span>'


def _note(sentences: Iterable[str]) -> str:
    words = " ".join(filter(None, sentences))
    return f'<p class="note">{escape(words)}</p>' if words else ""

"""The tables of the README, made from the code: ``python docs/tables.py`` writes them there."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pesloss.losses import MASKS, PENALTIES, PROPERTIES, REDUCTIONS, RESIDUALS
from pesloss.weighting import WEIGHTINGS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
START, END = "<!-- tables: python docs/tables.py -->\n", "<!-- end of tables -->\n"
PARTS: Mapping[str, Mapping[str, Any]] = {
    "residual": RESIDUALS,
    "penalty": PENALTIES,
    "mask": MASKS,
    "reduction": REDUCTIONS,
    "weighting": WEIGHTINGS,
}


def tables() -> str:
    """All of them, one after another."""
    return "\n".join((_properties(), _parts(), _losses(), _groups()))


def written(readme: str) -> str:
    """A README with its tables replaced."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{tables()}\n{END}{after}"


def _properties() -> str:
    rows = []
    for prop in PROPERTIES.values():
        shape = str(list(prop.shape)) if prop.shape else "a number"
        rows.append((f"`{prop.name}`", prop.rows, shape, "yes" if prop.extensive else "", prop.unit))
    return _table("Properties", ("name", "one row a", "shape of a row", "extensive", "unit"), rows)


def _parts() -> str:
    rows = [
        (kind, f"`{name}`", _options(make), _sentence(make))
        for kind, table in PARTS.items()
        for name, make in table.items()
    ]
    return _table("Parts of a term, and weightings", ("part", "name", "options", "what it is"), rows)


def _losses() -> str:
    rows = [
        (f"`loss={path.stem}`", path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "))
        for path in sorted((ROOT / "conf" / "loss").glob("*.yaml"))
    ]
    return _table("Losses by name", ("option", "what it is"), rows)


def _groups() -> str:
    rows = []
    for folder in sorted(path for path in (ROOT / "conf").iterdir() if any(path.glob("*.yaml"))):
        options = ", ".join(f"`{file.stem}`" for file in sorted(folder.glob("*.yaml")))
        rows.append((f"`{folder.name}`", options))
    return _table("Groups of the app", ("group", "options"), rows)


def _options(make: Any) -> str:
    function = getattr(make, "func", make)
    fixed = getattr(make, "keywords", {})
    parameters = inspect.signature(function).parameters
    named = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    shown = [f"`{p.name}={fixed.get(p.name, p.default)}`" for p in named]
    return ", ".join(shown)


def _sentence(make: Any) -> str:
    doc = inspect.getdoc(getattr(make, "func", make)) or ""
    return " ".join(doc.split("\n\n")[0].split())


def _table(title: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [f"**{title}**\n", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")

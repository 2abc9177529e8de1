"""The tables of README and docs, made from the code: ``python docs/tables.py`` writes them there."""

from __future__ import annotations

import csv
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

import pesloss.losses
import pesloss.weighting
from pesloss.checks import CHECKS
from pesloss.data import Files
from pesloss.data.reading.files import File
from pesloss.data.references import References
from pesloss.losses import DERIVED, MASKS, PENALTIES, PROPERTIES, REDUCTIONS, RESIDUALS, Term, terms
from pesloss.recipes import PROJECTS, from_config
from pesloss.training import Trainer
from pesloss.training.metrics import NUMBERS, TOTALS, VECTORS
from pesloss.weighting import WEIGHTINGS

ROOT = Path(__file__).parent.parent
START, END = "<!-- tables: python docs/tables.py -->\n", "<!-- end of tables -->\n"
PARTS: Mapping[str, Mapping[str, Any]] = {
    "residual": RESIDUALS,
    "penalty": PENALTIES,
    "mask": MASKS,
    "reduction": REDUCTIONS,
    "prediction": DERIVED,
    "weighting": WEIGHTINGS,
}
TABLES: Mapping[str, Mapping[str, Any]] = {**PARTS, "property": PROPERTIES}
OTHERS = {"Trainer": Trainer, "References": References, "build": pesloss.build, "from_config": from_config}
TITLES = {
    "mace": "MACE",
    "nequip": "NequIP",
    "graph_pes": "graph-pes",
    "metatrain": "metatrain",
    "tace": "TACE",
    "fairchem": "fairchem",
    "deepmd": "DeePMD-kit",
    "schnetpack": "SchNetPack",
    "sevennet": "SevenNet",
    "orb": "orb-models",
    "matgl": "matgl",
    "modelforge": "modelforge",
    "torchmdnet": "TorchMD-Net",
    "nvalchemi": "nvalchemi-toolkit",
}
METRICS = {
    "energies (per atom), charges": NUMBERS,
    "energies of whole structures": TOTALS,
    "vectors and tensors; virials per atom": VECTORS,
}


def written(page: str, text: str) -> str:
    """A page with its tables replaced."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    tables = "\n".join(table() for table in PAGES[page])
    return f"{before}{START}\n{tables}\n{END}{after}"


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


def _terms() -> str:
    rows = [(f"`{cls.__name__}`", _sentence(cls)) for cls in sorted(final_terms(), key=lambda c: c.__name__)]
    return _table("Terms", ("class in `pesloss.losses.terms`", "what it is"), rows)


def final_terms() -> list[type[Term]]:
    """Every term that a config can name."""
    found = set()
    for module in pkgutil.walk_packages(terms.__path__, f"{terms.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(value) and issubclass(value, Term) and not inspect.isabstract(value):
                found.add(value)
    return list(found)


def _losses() -> str:
    return _by_name("Losses of ours by name", "loss", lambda name: not _project(name))


def _recipes() -> str:
    return "\n".join(
        _by_name(title, "loss", lambda name, project=project: _project(name) == project)
        for project, title in TITLES.items()
    )


def _project(loss: str) -> str | None:
    return next((project for project in PROJECTS if loss.startswith(f"{project}_")), None)


def _features() -> str:
    """What each project offers, and what ours is called; a name that does not exist is an error."""
    with (ROOT / "docs" / "features.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    marks = {"yes": "●", "partly": "○", "": ""}
    made = [(row[0], *(marks[cell] for cell in row[1:-1]), _ours(row[-1])) for row in rows]
    return _table("Features: ● yes, ○ in part", head, made)


def _ours(specs: str) -> str:
    return "<br>".join(_existing(*spec.split()) for spec in specs.split("; ") if spec)


def _existing(kind: str, name: str, option: str = "") -> str:
    """How something of pesloss is called, if it exists."""
    if kind in TABLES and name in TABLES[kind]:
        return f"`{kind}: {name}`"
    if kind == "loss" and (ROOT / "conf" / "loss" / f"{name}.yaml").exists():
        return f"`loss={name}`"
    found = {
        **vars(pesloss.losses),
        **vars(pesloss.weighting),
        **{c.__name__: c for c in final_terms()},
        **OTHERS,
    }
    if kind in ("class", "function") and name in found:
        return f"`{name}`"
    if kind == "option" and option in inspect.signature(found[name]).parameters:
        return f"`{name}({option}=)`"
    if kind == "method" and hasattr(found[name], option):
        return f"`{name}.{option}`"
    raise KeyError(f"docs/features.csv: there is no {kind} {name} {option}")


def _data() -> str:
    return _by_name("Data by name", "data")


def _by_name(title: str, group: str, chosen: Callable[[str], bool] = bool) -> str:
    """Options of a group of configs with the first line of each."""
    rows = [
        (f"`{group}={path.stem}`", path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "))
        for path in sorted((ROOT / "conf" / group).glob("*.yaml"))
        if chosen(path.stem)
    ]
    return _table(title, ("option", "what it is"), rows)


def _trainer() -> str:
    return _settings("Settings of `trainer`", Trainer, "trainer/default")


def _files() -> str:
    return _settings("Options of `data=files`", Files, "data/files")


def _file() -> str:
    rows = [(f"`{name}`", meaning) for name, meaning in _arguments(File).items()]
    return _table("Entries of a file", ("entry", "what it is"), rows)


def _settings(title: str, kind: type, config: str) -> str:
    """Arguments of a class with the values that a config gives them."""
    given = yaml.safe_load((ROOT / "conf" / f"{config}.yaml").read_text(encoding="utf-8"))
    rows = [
        (f"`{name}`", f"`{_value(given.get(name))}`", meaning) for name, meaning in _arguments(kind).items()
    ]
    return _table(title, ("setting", "by default", "what it is"), rows)


def _value(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _arguments(kind: type) -> dict[str, str]:
    """What the docstring of a class says of each argument."""
    text = (inspect.getdoc(kind) or "").partition("Args:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", text, re.DOTALL | re.MULTILINE)
    return {name: " ".join(meaning.split()).replace("``", "`").replace("|", r"\|") for name, meaning in found}


def _metrics() -> str:
    rows = [
        (f"`{name}`", what, kind.meaning.replace("|", r"\|"))
        for what, kinds in METRICS.items()
        for name, kind in kinds.items()
    ]
    return _table("Metrics, with e the prediction minus the label", ("name", "of", "definition"), rows)


def _checks() -> str:
    rows = [(f"`{name}`", "yes" if check.cheap else "", check.about) for name, check in CHECKS.items()]
    return _table("Checks", ("name", "at the start of a training", "what it looks for"), rows)


def _groups() -> str:
    rows = []
    for folder in sorted(path for path in (ROOT / "conf").iterdir() if any(path.glob("*.yaml"))):
        names = [file.stem for file in sorted(folder.glob("*.yaml"))]
        own = [name for name in names if folder.name != "loss" or not _project(name)]
        options = ", ".join(f"`{name}`" for name in own)
        if len(own) < len(names):
            options += f", and [{len(names) - len(own)} of other projects](docs/recipes.md)"
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


PAGES: Mapping[str, Iterable[Callable[[], str]]] = {
    "README.md": (_groups,),
    "docs/losses.md": (_properties, _parts, _terms, _losses),
    "docs/recipes.md": (_recipes, _features),
    "docs/training.md": (_trainer, _metrics),
    "docs/data.md": (_data, _files, _file),
    "docs/checks.md": (_checks,),
}


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(written(page, path.read_text(encoding="utf-8")), encoding="utf-8")

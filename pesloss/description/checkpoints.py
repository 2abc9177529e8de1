"""What a checkpoint says of itself, in words and numbers: its plain data are read, nothing of it is built."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pesloss.checkpoint import CheckpointError, understood
from pesloss.description.typeset import Section
from pesloss.safety.overrides import objection

Content = Mapping[str, Any]

NEEDED: Mapping[str, type | tuple[type, ...]] = {
    "config": Mapping,
    "formula": Mapping,
    "model": Mapping,
    "parameters": int,
    "properties": list,
    "elements": list,
    "references": Mapping,
    "reference_energies": str,
    "data": str,
    "files": list,
    "splits": Mapping,
    "progress": Mapping,
    "metrics": Mapping,
    "versions": Mapping,
    "overrides": (list, type(None)),
}
"""Entries of a checkpoint that describe it."""
UNITS = "eV, Å, e; stress in eV/Å³, positive in tension; virial = -volume · stress"
"""Of labels and predictions in every checkpoint; data are converted when they are read."""


def describe(content: Content, name: str) -> list[Section]:
    """A checkpoint as tables: loss, data, model, reference energies, training, errors.

    Args:
        content: of the checkpoint.
        name: of its file, for errors.

    Raises:
        CheckpointError: naming what is missing, of a checkpoint that does not describe itself.
    """
    _check(content, name)
    with understood(name):
        made = [section(content) for section in (_loss, _errors, _data, _files, _model, _references, _run)]
    return [section for section in made if section.rows]


def differences(first: Content, second: Content, names: tuple[str, str]) -> list[Section]:
    """What differs between two checkpoints, and their errors side by side.

    Raises:
        CheckpointError: as for one of them.
    """
    for content, name in zip((first, second), names, strict=True):
        _check(content, name)
    with understood(" or ".join(names)):
        found = [
            _compared(title, column, names, of(first), of(second))
            for title, column, of in (
                ("Settings", "setting", _settings),
                ("Loss", "part", _formula),
                ("Data", "part", _counts),
                ("Reference energies [eV]", "element", _energies),
                ("Versions", "package", _versions),
            )
        ]
        errors = _side_by_side("Errors", "error", names, _numbers(first), _numbers(second))
    told = [(one.title, f"{len(one.rows)} differ" if one.rows else "the same") for one in found]
    return [
        _section(f"{names[0]} and {names[1]}", ("", ""), told),
        *(section for section in (*found, errors) if section.rows),
    ]


def command(content: Content, name: str) -> tuple[str, list[str]]:
    """The line for a shell that trains the same again, and what of it is left out, with the reason.

    Raises:
        CheckpointError: if the run was not started from a command line.
    """
    _check(content, name)
    if content["overrides"] is None:
        raise CheckpointError(
            f"{name} was trained from Python, not from the command line; see its config in --format json."
        )
    reasons = {str(override): objection(override) for override in content["overrides"]}
    kept = [override for override, reason in reasons.items() if reason is None]
    left = [f"{override!r} is left out: {reason}" for override, reason in reasons.items() if reason]
    return shlex.join(["python", "-m", "pesloss.train", *kept]), left


def plain(content: Content, name: str) -> dict[str, Any]:
    """All of it but the tensors, for programs.

    Raises:
        CheckpointError: as in :func:`describe`.
    """
    _check(content, name)
    described = {key: content[key] for key in (*NEEDED, "final") if key in content and key != "model"}
    return {**described, "dtype": _dtype(content)}


def as_json(data: Any) -> str:
    """Plain data for programs; what is not finite is null."""
    text = json.dumps(data, default=str)
    return json.dumps(json.loads(text, parse_constant=lambda _: None), indent=2)


def flat(config: Any, name: str = "") -> dict[str, Any]:
    """Settings by their dotted name.

    Example:
        >>> flat({"loss": {"weight": 1.0}, "seed": 0})
        {'loss.weight': 1.0, 'seed': 0}
    """
    if not isinstance(config, Mapping):
        return {name: config}
    prefix = f"{name}." if name else ""
    return {key: value for part in config for key, value in flat(config[part], f"{prefix}{part}").items()}


def _check(content: Content, name: str) -> None:
    lacking = [key for key, kind in NEEDED.items() if not isinstance(content.get(key, ...), kind)]
    if lacking:
        raise CheckpointError(
            f"{name} does not describe itself: it lacks {', '.join(lacking)}. It was written by an older "
            "pesloss or by another program."
        )


def _loss(content: Content) -> Section:
    progress = content["progress"]
    rows = [
        (term["name"], term["weight"], term["value"], term["unit"], term["labels"])
        for term in content["formula"]["terms"]
    ]
    rows += [("", "", remark, "", "") for remark in content["formula"]["remarks"]]
    title = f"Loss: {content['formula']['class']}, weights after epoch {progress['epochs']}"
    return _section(title, ("term", "weight", "value", "unit of r", "labels"), rows)


def _errors(content: Content) -> Section:
    """Errors on the validation structures at the epoch of the weights, and the final ones of all splits."""
    names = list(dict.fromkeys(name for name in (*content["metrics"], *_final(content)) if "=" not in name))
    found = {**content["metrics"], **_final(content)}
    labels, baseline = (
        content.get("final", {}).get("labels", {}),
        content.get("final", {}).get("baseline", {}),
    )
    rows = [
        (*_split(name), _number(found[name]), _number(baseline.get(name)), str(labels.get(name, "")))
        for name in names
    ]
    when = "final" if _final(content) else f"validation after epoch {content['progress']['epochs']}"
    return _section(f"Errors, {when}", ("split", "error", "value", "of the mean", "labels"), rows)


def _data(content: Content) -> Section:
    splits = content["splits"]
    names = list(dict.fromkeys(label for split in splits.values() for label in split["labels"]))
    rows = [
        (name, split["structures"], split["atoms"], *(split["labels"].get(label, 0) for label in names))
        for name, split in splits.items()
    ]
    title = f"Data, fingerprint {content['data']}"
    return _section(title, ("split", "structures", "atoms", *(f"{name} labels" for name in names)), rows)


def _files(content: Content) -> Section:
    rows = [
        (file["file"], file["dataset"], file["structures"], _listed(file["changes"]))
        for file in content["files"]
    ]
    return _section("Files", ("file", "dataset", "structures", "converted"), rows)


def _model(content: Content) -> Section:
    properties = ", ".join(_property(prop) for prop in content["properties"])
    rows = [
        ("network", _call(content["config"]["model"])),
        ("parameters", content["parameters"]),
        ("dtype", _dtype(content)),
        ("elements", " ".join(content["elements"])),
        ("trained on", properties),
        ("units", UNITS),
    ]
    return _section("Model", ("", ""), rows)


def _references(content: Content) -> Section:
    title = f"Reference energies: {content['reference_energies']}"
    return _section(title, ("element", "energy [eV]"), _energies(content).items())


def _run(content: Content) -> Section:
    config, progress = content["config"], content["progress"]
    rows = [
        ("optimizer", _call(config["optimizer"])),
        ("schedule", _call(config.get("scheduler"))),
        ("trainer", _call(config["trainer"])),
        ("seed", config["seed"]),
        ("epochs", f"{progress['epochs']}, the best so far {progress['best_epoch']}"),
        ("optimizer steps", progress["step"]),
        ("time", f"{progress['seconds']:.0f} s"),
        *([("ended", content["final"]["ended"])] if "final" in content else []),
        ("versions", _listed(content["versions"])),
        ("command line", _shown_command(content)),
    ]
    return _section("Training", ("", ""), rows)


def _shown_command(content: Content) -> str:
    try:
        return command(content, "it")[0]
    except CheckpointError:
        return "none: it was trained from Python"


def _settings(content: Content) -> dict[str, str]:
    return {key: _value(value) for key, value in flat(content["config"]).items()}


def _formula(content: Content) -> dict[str, str]:
    found = {"class": str(content["formula"]["class"])}
    for term in content["formula"]["terms"]:
        found |= {f"{term['name']}: {key}": str(term[key]) for key in ("weight", "value", "unit", "labels")}
    return found | {f"remark {i + 1}": str(text) for i, text in enumerate(content["formula"]["remarks"])}


def _counts(content: Content) -> dict[str, str]:
    found = {"fingerprint": str(content["data"])}
    found |= {f"file {file['file']}": f"{file['structures']} structures" for file in content["files"]}
    return found | {name: str(value) for name, value in flat(content["splits"]).items()}


def _energies(content: Content) -> dict[str, str]:
    known = {symbol: content["references"].get(symbol) for symbol in content["elements"]}
    return {symbol: f"{energy:.6f}" for symbol, energy in known.items() if energy is not None}


def _versions(content: Content) -> dict[str, str]:
    return {str(name): str(version) for name, version in content["versions"].items()}


def _numbers(content: Content) -> dict[str, str]:
    found = {**content["metrics"], **_final(content)}
    return {" ".join(_split(name)): _number(value) for name, value in found.items() if "=" not in name}


def _final(content: Content) -> Mapping[str, float]:
    return content["final"]["metrics"] if "final" in content else {}


def _compared(
    title: str, column: str, names: tuple[str, str], a: Mapping[str, str], b: Mapping[str, str]
) -> Section:
    """Only what differs."""
    same = {name for name in a if b.get(name) == a[name]}
    a, b = ({name: value for name, value in one.items() if name not in same} for one in (a, b))
    return _side_by_side(title, column, names, a, b)


def _side_by_side(
    title: str, column: str, names: tuple[str, str], a: Mapping[str, str], b: Mapping[str, str]
) -> Section:
    rows = [(name, a.get(name, "absent"), b.get(name, "absent")) for name in {**a, **b}]
    return _section(title, (column, *names), rows)


def _section(title: str, columns: Sequence[str], rows: Any) -> Section:
    return Section(title, tuple(columns), tuple(tuple(str(cell) for cell in row) for row in rows))


def _split(name: str) -> tuple[str, str]:
    """Split and error of a name such as ``test/forces/mae_component [meV/Å]``."""
    split, _, rest = name.partition("/")
    return split, rest.replace("/", " ", 1)


def _listed(words: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {word}" for name, word in words.items())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _property(prop: Any) -> str:
    return prop if isinstance(prop, str) else f"{prop['name']} [{prop['unit']}]"


def _call(node: Any) -> str:
    """A node of a config as a call: the name of the class and its arguments.

    Example:
        >>> _call({"_target_": "torch.optim.Adam", "lr": 0.01, "betas": [0.9, 0.99]})
        'Adam(lr=0.01, betas=[0.9, 0.99])'
    """
    if not isinstance(node, Mapping):
        return _value(node) if node is not None else "none"
    arguments = ", ".join(
        f"{key}={_call(value) if isinstance(value, Mapping) else _value(value)}"
        for key, value in node.items()
        if not str(key).startswith("_")
    )
    return f"{str(node.get('_target_', '')).rpartition('.')[2]}({arguments})"


def _dtype(content: Content) -> str:
    dtypes = dict.fromkeys(str(tensor.dtype) for tensor in _tensors(content) if tensor.is_floating_point())
    return ", ".join(dtype.removeprefix("torch.") for dtype in dtypes)


def _tensors(content: Content) -> Iterator[Any]:
    yield from (value for value in content["model"].values() if hasattr(value, "is_floating_point"))

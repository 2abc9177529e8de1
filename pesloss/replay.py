"""A step that went wrong, once more: ``python -m pesloss.replay runs/x/postmortem/step_000123``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from pesloss.cli import chosen_device, first_means, hydra_app

if TYPE_CHECKING:
    from rich.console import Console

    from pesloss.checks.postmortem import Case, Diagnosis
    from pesloss.losses import Batch

MOST_ROWS = 30
"""Structures of a batch in the table of what they add to the loss, the largest first."""


class NotReproducedError(RuntimeError):
    """The step is as it should be; ``status`` is the exit status of the program."""

    status = 2


def replay(config: Any) -> None:
    """Repeat forward, loss and backward of a step, and say what is NaN or infinite, and where it begins.

    The exit status is 0 if the step goes wrong again, 2 if it does not, 1 after a mistake.

    Raises:
        FileNotFoundError: if there is no post-mortem of a step.
        CheckpointError: if a file is something else.
        NotReproducedError: if everything is finite now.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    paths = files(Path(plain["postmortem"]))
    # torch waits until it is needed: --help and a mistake are answered without it
    from pesloss import checkpoint
    from pesloss.checks.postmortem import read, rebuilt
    from pesloss.training import open_console

    device, console, contents = chosen_device(plain), open_console(), [read(path) for path in paths]
    with checkpoint.understood(plain["postmortem"]):
        cases = [rebuilt(content, device) for content in contents]
    again = [_tell(console, *pair) for pair in zip(contents, cases, strict=True)]
    if plain["extxyz"] is not None:
        write(Path(plain["extxyz"]), contents[0], [part for case in cases for part in case.parts], cases[0])
        _say(console, f"The structures are in {plain['extxyz']}.")
    if not any(again):
        raise NotReproducedError("not reproduced (finite here: it came from the machine)")
    _say(console, "reproduced")


def files(path: Path) -> list[Path]:
    """Files of a post-mortem: the one given, or those of all processes in a folder.

    Raises:
        FileNotFoundError: if there is none, naming those that are further down.
    """
    if path.is_file():
        return [path]
    if found := sorted(path.glob("rank_*.ckpt")):
        return found
    below = sorted({str(file.parent) for file in path.glob("**/rank_*.ckpt")})
    raise FileNotFoundError(f"There is no post-mortem in {path}; below it: {', '.join(below) or 'none'}.")


def write(path: Path, content: Mapping[str, Any], parts: Sequence[Batch], case: Case) -> None:
    """Structures with their labels and what is predicted now; energies are total ones."""
    from tempfile import TemporaryDirectory

    from pesloss.data.references import References
    from pesloss.losses.properties import as_property
    from pesloss.report import PredictionFiles

    properties = {prop.name: prop for prop in map(as_property, content["properties"])}
    about = {"properties": properties, "references": References(content["references"], "from the file")}
    with TemporaryDirectory(dir=path.parent) as aside:
        source = content["names"].__getitem__
        with PredictionFiles(Path(aside), "x", **about, source=source, groups=content["groups"]) as written:
            for part in parts:
                predictions = case.potential(part, list(properties), training=False)
                written.write(_exact(part, about["references"]), predictions)
        Path(aside, "predictions_x.extxyz").replace(path)


def folder_first(arguments: list[str]) -> list[str]:
    """``runs/x/postmortem/step_000123`` in the first place means ``postmortem=...``.

    Example:
        >>> folder_first(["postmortem/step_000123", "device=cuda"])
        ["postmortem='postmortem/step_000123'", 'device=cuda']
    """
    return first_means("postmortem", arguments)


def _tell(console: Console, content: Mapping[str, Any], case: Case) -> bool:
    """Print what a process saw then, and what is seen now; whether it goes wrong again."""
    from pesloss.checks.postmortem import diagnose, first_nan
    from pesloss.checks.rendering import rich_table

    name_of = content["names"].__getitem__
    diagnosis = diagnose(case, spike=content["spike"])
    _say(console, f"Then (process {content['rank']} of {content['world_size']}): {content['sentence']}")
    _say(console, f"Now: {diagnosis.sentence(name_of) or 'everything is finite.'}")
    if operation := first_nan(case):
        _say(console, operation)
    console.print(rich_table(_contributions(case, content["names"])))
    return bool(diagnosis.culprits) or (content["spike"] and _as_long(diagnosis, content["norms"]))


def _as_long(diagnosis: Diagnosis, norms: Mapping[str, float]) -> bool:
    """Whether the gradient of every term is as long as it was, but for how a machine rounds."""
    return all(abs(norm - norms[term]) <= 0.01 * norms[term] for term, norm in diagnosis.norms)


def _contributions(case: Case, names: Mapping[int, str]) -> Any:
    """What each structure adds to the loss, the largest first."""
    from pesloss.checks.findings import Table

    case.loss.eval()
    rows = []
    for part, said in case.predictions():
        found = case.loss.per_structure(said, part).terms
        columns = [values.tolist() for values in found.values()]
        rows += zip([names[index] for index in part["index"].tolist()], *columns, strict=True)
    rows.sort(key=lambda row: -sum(inf if isnan(value) else value for value in row[1:]))
    most = f" (the first {MOST_ROWS} of {len(rows)})" if len(rows) > MOST_ROWS else ""
    title = f"What structures add to the loss of their batch{most}"
    return Table(title, ("structure", *case.loss.by_name), tuple(rows[:MOST_ROWS]))


def _exact(part: Batch, references: Any) -> dict[str, Any]:
    """A batch on the host in float64, with total energies."""
    batch = {key: value.detach().cpu() for key, value in part.items()}
    batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    if "energy" in batch:
        batch["energy"] = batch["energy"] + references(
            batch["numbers"], batch["batch"], len(batch["ptr"]) - 1
        )
    return batch


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


main = hydra_app(replay, config_name="replay", arguments=folder_first)

if __name__ == "__main__":
    main()

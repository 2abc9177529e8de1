"""What a checkpoint holds: ``python -m pesloss.show model.ckpt``; of two of them, what differs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pesloss.mistakes import explain
from pesloss.names import visible


def show(paths: Sequence[str], *, format: str = "text", command: bool = False) -> str:
    """The description of a checkpoint, the difference of two, or the command that trains the same again.

    Nothing of a checkpoint is built or executed.

    Args:
        paths: one or two checkpoints, or folders of runs, whose best ones are taken.
        format: ``text``, ``markdown``, ``latex`` or ``json``.
        command: whether to give the command line instead.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        CheckpointError: if one is no checkpoint, or does not describe itself.
        ValueError: if there are more than two, or two where a command is asked for.
    """
    # torch waits until it is needed: --help is answered without it
    from pesloss import description
    from pesloss.checkpoint import located, read
    from pesloss.description.typeset import FORMATS

    if len(paths) > 2:
        raise ValueError(f"At most two checkpoints are compared, got {len(paths)}.")
    contents = [read(located(path)) for path in paths]
    if command and len(paths) > 1:
        raise ValueError("--command is of one checkpoint; two are given.")
    if command:
        line, notes = description.command(contents[0], paths[0])
        return "\n".join([line, *(f"# {visible(note)}" for note in notes)])
    if format == "json":
        described = [description.plain(*pair) for pair in zip(contents, paths, strict=True)]
        return description.as_json(
            described[0] if len(described) == 1 else dict(zip(paths, described, strict=True))
        )
    if len(contents) == 1:
        sections = description.describe(contents[0], paths[0])
    else:
        sections = description.differences(contents[0], contents[1], (paths[0], paths[1]))
    return "\n\n".join(map(FORMATS[format], sections))


def main(arguments: Sequence[str] | None = None) -> None:
    """The program; a mistake of the user's ends in a sentence on stderr and status 1."""
    given = _parser().parse_args(arguments)
    try:
        print(show(given.checkpoints, format=given.format, command=given.command))
    except BrokenPipeError:
        # whoever reads has read enough, as `head` does; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if (sentence := explain(error)) is None:
            raise
        sys.stderr.write(f"Error: {visible(sentence)}\n")
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pesloss.show",
        description="What a checkpoint holds: loss, data, errors, versions. Of two, what differs.",
    )
    parser.add_argument("checkpoints", nargs="+", metavar="checkpoint", help="a file, or the folder of a run")
    parser.add_argument("--format", choices=["text", "markdown", "latex", "json"], default="text")
    parser.add_argument("--command", action="store_true", help="the line that trains the same again")
    return parser


if __name__ == "__main__":
    main()

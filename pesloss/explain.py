"""What a loss is, term by term: ``python -m pesloss.explain loss=mace_universal``."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from pesloss.cli import hydra_app


def explain(config: Any) -> None:
    """Print the formula of the composed loss, in words and symbols."""
    node: Any = OmegaConf.to_container(config.loss, resolve=True, throw_on_missing=True)
    # torch waits until it is needed: --help and a misspelt option are answered without it
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from pesloss import build
    from pesloss.losses.formulas import formulas, remarks

    loss = build(node)
    console = Console(highlight=False, soft_wrap=not Console().is_terminal)
    summands = formulas(loss)
    total = " + ".join(f"w({line.name}) · {line.name}" for line in summands)
    console.print(f"{type(loss).__name__}: total = {total}", markup=False)
    table = Table(show_lines=True)
    for column in ("term", "its weight", "its value", "unit of r", "labels"):
        table.add_column(column, overflow="fold")
    for line in summands:
        table.add_row(*map(escape, line))
    console.print(table)
    for remark in remarks(loss):
        console.print(remark, markup=False)
    for remark in getattr(loss, "remarks", ()):
        console.print(remark, markup=False)


main = hydra_app(explain, config_name="explain")

if __name__ == "__main__":
    main()

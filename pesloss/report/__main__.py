"""A sweep as a page, a table and a text: ``python -m pesloss.report my_sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pesloss.cli import first_means, hydra_app


def report(config: Any) -> None:
    """From the folder of a sweep, ended or running, to ``report.html``, ``report.csv`` and ``report.md``."""
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    # what draws waits until it is needed: --help and a misspelt option are answered without it
    from pesloss.report.sweep import compare, read_sweep
    from pesloss.report.sweep.files import write
    from pesloss.report.sweep.terminal import show
    from pesloss.terminal import open_console

    _check(plain)
    folder, console = Path(plain["sweep"]), open_console()
    comparison = compare(read_sweep(folder), plain["split"], plain["errors"])
    output = folder if plain["output"] is None else Path(plain["output"])
    paths = write(comparison, output, plain["parity"])
    show(comparison, console)
    names = f"{paths[0]}, {' and '.join(path.suffix for path in paths[1:])}"
    console.print(f"Written to {names}", markup=False, highlight=False, soft_wrap=True)


def _check(config: dict[str, Any]) -> None:
    errors, parity = config["errors"], config["parity"]
    if errors is not None and not (
        isinstance(errors, list) and all(isinstance(name, str) for name in errors)
    ):
        raise ValueError(f"errors must be null or a list of names, such as [energy/mae], got {errors!r}.")
    if not isinstance(parity, int) or isinstance(parity, bool) or parity < 0:
        raise ValueError(f"parity must be a whole number of at least 0, got {parity!r}.")


def sweep_first(arguments: list[str]) -> list[str]:
    """``my_sweep`` in the first place means ``sweep=my_sweep``.

    Example:
        >>> sweep_first(["my_sweep", "split=test"])
        ["sweep='my_sweep'", 'split=test']
    """
    return first_means("sweep", arguments)


main = hydra_app(report, config_name="report", arguments=sweep_first)

if __name__ == "__main__":
    main()

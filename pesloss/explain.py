"""What a loss is, and who drives it: ``python -m pesloss.explain loss=mace_universal``, or ``model.ckpt``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from pesloss.cli import chosen_device, first_means, hydra_app

if TYPE_CHECKING:
    from rich.console import Console

    from pesloss.data import LoadedData, Packed
    from pesloss.losses import Batch, TotalLoss
    from pesloss.models import Potential


def explain(config: Any) -> None:
    """Print the formula of the composed loss in words and symbols, and its balance where there is a model.

    With a checkpoint the loss is that of its run as it stood then, unless another is given.
    """
    if config.get("data") is not None and OmegaConf.is_missing(config.data, "train"):
        config.data.train = None  # nothing is trained
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    _check(plain)
    # torch waits until it is needed: --help and a misspelt option are answered without it
    from pesloss import build
    from pesloss.training import open_console

    console = open_console()
    if plain["checkpoint"] is not None:
        loss, potential, data = _trained(plain, console)
    else:
        loss = build(plain["loss"])
        potential, data = _fresh(plain, loss)
    _describe(loss, console, data)
    if potential is not None and data is not None:
        _weigh_up(plain, loss, potential, data, console)


def arguments(given: list[str]) -> list[str]:
    """``model.ckpt`` in the first place means ``checkpoint=model.ckpt``, with the loss of its run.

    Example:
        >>> arguments(["model.ckpt"])
        ["checkpoint='model.ckpt'", '~loss']
    """
    given = first_means("checkpoint", given)
    own = any(argument.startswith("loss") for argument in given)
    trained = any(argument.startswith("checkpoint=") for argument in given)
    return [*given, "~loss"] if trained and not own else given


def _check(config: Mapping[str, Any]) -> None:
    if config["checkpoint"] is not None and "model" in config:
        raise ValueError("A checkpoint has its model; give either checkpoint=... or model=...")
    if "model" in config and "data" not in config:
        raise ValueError("The balance of a model needs structures; give data=... too.")
    for name in ("batches", "batch_size"):
        if isinstance(config[name], bool) or not isinstance(config[name], int) or config[name] < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {config[name]!r}.")


def _trained(config: Mapping[str, Any], console: Console) -> tuple[TotalLoss, Potential, LoadedData]:
    """Loss, potential and data of a checkpoint, or another loss and other data for its potential."""
    from pesloss import build, checkpoint
    from pesloss.models import Potential
    from pesloss.models.derived import derived_by
    from pesloss.models.trained import opened

    path = checkpoint.located(config["checkpoint"])
    content = checkpoint.read(path)
    trained = opened(content, path, chosen_device(config))
    loss: TotalLoss = build(config["loss"]) if "loss" in config else trained.loss()
    network: Any = trained.potential.network
    potential = Potential(network, derived_by(loss, network)).requires_grad_(True)
    source = build(config["data"]) if "data" in config else trained.source()
    data = source.load(loss.labels, trained.cutoff, trained.dtype, references=trained.references)
    _fit(loss, potential, data)
    if "loss" not in config:
        _restore(loss, content, console)
    return loss, potential, data


def _fresh(config: Mapping[str, Any], loss: TotalLoss) -> tuple[Potential | None, LoadedData | None]:
    """A potential before its first step and its data, as far as they are given."""
    if "data" not in config:
        return None, None
    import torch

    from pesloss import build
    from pesloss.check import CUTOFF
    from pesloss.models import Potential
    from pesloss.models.derived import derived_by
    from pesloss.training.prepare import energy_scale, heads_of

    device, dtype = chosen_device(config), torch.float32
    source = build(config["data"])
    if "model" not in config:
        return None, source.load(loss.labels, CUTOFF, dtype)
    torch.manual_seed(config["seed"])
    model = build(config["model"], heads=heads_of(loss)).to(dtype)
    data = source.load(loss.labels, model.cutoff, dtype)
    model.set_scale(energy_scale(_part(data)))
    potential = Potential(model, derived_by(loss, model)).to(device)
    _fit(loss, potential, data)
    return potential, data


def _fit(loss: TotalLoss, potential: Potential, data: LoadedData) -> None:
    """What a loss has to know before the first step."""
    loss.to(next(potential.parameters()).device)
    loss.pre_fit(_part(data).chunks([*loss.labels, "numbers", "cell", "pbc"]))
    loss.attach(potential)


def _restore(loss: TotalLoss, content: Mapping[str, Any], console: Console) -> None:
    """Put the loss where the training stood."""
    progress = content["progress"]
    if "loss" in content:
        loss.load_state_dict(content["loss"])
    elif loss.state_dict():
        console.print("This checkpoint has no state of the loss, which is that of the start: last.ckpt has.")
    groups = content.get("optimizer", {}).get("param_groups") or [{"lr": 1.0}]
    rate = groups[0]["lr"] / (groups[0].get("initial_lr") or groups[0]["lr"] or 1.0)
    loss.place(epoch=progress["epochs"], step=progress["step"], learning_rate=rate)


def _describe(loss: TotalLoss, console: Console, data: LoadedData | None) -> None:
    """The formula, and what its weights are in other words."""
    from rich.markup import escape
    from rich.table import Table

    from pesloss.losses.formulas import conversions, formulas, remarks

    summands = formulas(loss)
    total = " + ".join(f"w({line.name}) · {line.name}" for line in summands)
    console.print(f"{type(loss).__name__}: total = {total}", markup=False, soft_wrap=True)
    table = Table(show_lines=True)
    for column in ("term", "its weight", "its value", "unit of r", "labels"):
        table.add_column(column, overflow="fold")
    for line in summands:
        table.add_row(*map(escape, line))
    console.print(table)
    said = [*remarks(loss), *getattr(loss, "remarks", ()), *conversions(loss, _mean_atoms(data))]
    for remark in said:
        console.print(remark, markup=False, highlight=False, soft_wrap=True)


def _weigh_up(
    config: Mapping[str, Any], loss: TotalLoss, potential: Potential, data: LoadedData, console: Console
) -> None:
    """The balance on some structures."""
    from pesloss.checks.balance import balance
    from pesloss.checks.rendering import rich_table, tell

    groups = {"dataset": data.datasets, "config_type": data.config_types}
    report = balance(loss, potential, list(_batches(config, loss, potential, data)), groups=groups).report()
    for table in report.tables:
        console.print(rich_table(table))
    for finding in report.findings:
        tell(finding, console)


def _batches(
    config: Mapping[str, Any], loss: TotalLoss, potential: Potential, data: LoadedData
) -> Iterator[Batch]:
    from pesloss.data import batches
    from pesloss.data.loader import loader

    part = _part(data)
    chosen = batches(part, config["batch_size"], shuffle=True, seed=config["seed"])[: config["batches"]]
    yield from map(loss.prepare, loader(part, chosen, next(potential.parameters()).device))


def _part(data: LoadedData) -> Packed:
    """The training structures; where there are none, the others."""
    return next((part for part in data.parts.values() if len(part)), data.train)


def _mean_atoms(data: LoadedData | None) -> float | None:
    if data is None:
        return None
    part = _part(data)
    return float(part.store.structures["num_atoms"][part.rows].mean())


main = hydra_app(explain, config_name="explain", arguments=arguments)

if __name__ == "__main__":
    main()

"""Errors of a trained potential on any data: ``python -m pesloss.evaluate model.ckpt data=files ...``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from pesloss.cli import chosen_device, first_means, hydra_app
from pesloss.names import unknown

if TYPE_CHECKING:
    from rich.console import Console

    from pesloss.data import LoadedData
    from pesloss.losses import Batch, Predictions, Property, TotalLoss
    from pesloss.models.trained import Trained

SPLITS = ("train", "val", "test")
PRECISIONS = ("float32", "float64")


def evaluate(config: Any) -> None:
    """One job: from a checkpoint to metrics, plots and predictions in the folder of the job.

    Writes ``metrics.json``, ``parity_<property>.png``, ``worst_<split>.csv``, ``predictions_<split>.extxyz``
    and ``.csv``.
    """
    if "data" in config and OmegaConf.is_missing(config.data, "train"):
        config.data.train = None  # nothing is trained
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    _check(plain)
    trained = _loaded(plain)
    # heavy packages wait until they are needed: --help and a mistake are answered without them
    from pesloss.report import conclude
    from pesloss.training import open_console
    from pesloss.training.metrics import groups_of

    folder = Path(HydraConfig.get().runtime.output_dir)
    properties = _properties(plain, trained)
    data = _data(plain, trained, properties)
    console = open_console()
    if _has_changed(plain, trained, data, properties):
        console.print("The data have changed since the training: what is told of its parts may be wrong.")
    conclude(
        _predicted(plain, folder, trained, data, properties),
        properties,
        folder=folder,
        console=console,
        title=f"Errors of {plain['checkpoint']}",
        groups=groups_of(data.config_types, data.datasets),
        mean=_mean(plain, trained, data, properties),
        about={"checkpoint": str(Path(plain["checkpoint"]).resolve())},
        loss=_loss(trained, console),
        source=data.source,
    )


def _has_changed(
    config: Mapping[str, Any], trained: Trained, data: LoadedData, properties: Mapping[str, Property]
) -> bool:
    """Whether the data of the training are no longer what they were, where that can be told."""
    as_trained = "data" not in config and config["precision"] is None
    return as_trained and [*properties] == [*trained.properties] and trained.fingerprint != data.fingerprint


def checkpoint_first(arguments: list[str]) -> list[str]:
    """``model.ckpt`` in the first place means ``checkpoint=model.ckpt``.

    Example:
        >>> checkpoint_first(["model.ckpt", "batch_size=8"])
        ["checkpoint='model.ckpt'", 'batch_size=8']
    """
    return first_means("checkpoint", arguments)


def _check(config: Mapping[str, Any]) -> None:
    for split in config["splits"]:
        if split not in SPLITS:
            raise ValueError(f"splits: {unknown('split', split, SPLITS)}")
    if config["precision"] not in (None, *PRECISIONS):
        raise ValueError(unknown("precision", config["precision"], PRECISIONS))
    if not isinstance(config["batch_size"], int) or config["batch_size"] < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, got {config['batch_size']!r}.")


def _loaded(config: Mapping[str, Any]) -> Trained:
    """The potential, where and in the precision in which it is to compute."""
    import torch

    from pesloss import load

    trained = load(config["checkpoint"], chosen_device(config))
    return trained if config["precision"] is None else trained.to(getattr(torch, config["precision"]))


def _properties(config: Mapping[str, Any], trained: Trained) -> dict[str, Property]:
    from pesloss.losses.properties import as_property

    names = list(trained.properties) if config["properties"] is None else config["properties"]
    trained.check(names)
    return {name: trained.properties.get(name) or as_property(name) for name in names}


def _data(config: Mapping[str, Any], trained: Trained, properties: Mapping[str, Property]) -> LoadedData:
    """The data asked for, or those of the training; reference energies are the potential's."""
    from pesloss import build

    source = build(config["data"]) if "data" in config else trained.source()
    return source.load(properties, trained.cutoff, trained.dtype, references=trained.references)


def _mean(
    config: Mapping[str, Any], trained: Trained, data: LoadedData, properties: Mapping[str, Property]
) -> Any:
    """The mean of the training labels: from the checkpoint, or from the training data if they are at hand."""
    from pesloss.training import MeanPredictor

    if "data" not in config:
        return MeanPredictor.fit(properties, data.train.chunks(properties))
    return MeanPredictor(properties, trained.means)


def _loss(trained: Trained, console: Console) -> TotalLoss | None:
    """What the training minimised, with its configured weights, if that can still be told."""
    from pesloss.building import BuildError
    from pesloss.checkpoint import CheckpointError

    try:
        loss = trained.loss()
    except (BuildError, CheckpointError) as error:
        console.print(f"The worst structures are those of the squared errors: {error}", markup=False)
        return None
    if loss.state_dict():
        console.print(
            "What the loss has learned is in last.ckpt alone: the worst structures are those of the weights "
            "it began with."
        )
    return loss.to(trained.device).eval()


def _predicted(
    config: Mapping[str, Any],
    folder: Path,
    trained: Trained,
    data: LoadedData,
    properties: Mapping[str, Property],
) -> dict[str, Iterator[tuple[Batch, Predictions]]]:
    """Batches with their predictions by split, which are written to files as they are made."""
    from pesloss.data import Packed
    from pesloss.report import PredictionFiles
    from pesloss.training import predict

    def written(split: str, part: Packed) -> Iterator[tuple[Batch, Predictions]]:
        exact = Packed(part.store, part.rows)  # in float64, with total energies
        predicted = predict(
            trained.potential, part, properties, batch_size=config["batch_size"], device=trained.device
        )
        start = 0
        with PredictionFiles(
            folder,
            split,
            properties=properties,
            references=trained.references,
            source=data.source,
            groups={*data.config_types, *data.datasets},
        ) as files:
            for batch, predictions in predicted:
                end = start + len(batch["index"])
                files.write(exact.batch(range(start, end)), predictions)
                yield batch, predictions
                start = end

    parts = {split: data.parts[split] for split in config["splits"] if split in data.parts}
    return {split: written(split, part) for split, part in parts.items() if len(part)}


main = hydra_app(evaluate, config_name="evaluate", arguments=checkpoint_first)

if __name__ == "__main__":
    main()

"""Going on from a checkpoint: bit for bit if nothing has changed, and in words if something has."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pesloss import checkpoint
from pesloss.checkpoint import BEST, LAST, CheckpointError
from pesloss.checks.postmortem import set_random
from pesloss.description import flat
from pesloss.training.state import Progress, order

if TYPE_CHECKING:
    from pesloss.training.fit import Fit

State = Mapping[str, Any]

IGNORED = ("resume", "logger", "name", "check", "sweep")
"""Parts of a config that no step depends on."""


def resume(fit: Fit) -> list[str]:
    """Put a training into the state of the last checkpoint in its folder.

    With the config unchanged the next steps are the ones that would have come, bit for bit on a CPU.
    The config of the resumed run decides where it differs; what that means is said.

    Returns:
        What has changed, in sentences.

    Raises:
        CheckpointError: if the checkpoint cannot be read, or the model does not fit it.
    """
    state = checkpoint.read(fit.folder / LAST)
    if missing := {"config", "weights", "optimizer", "progress", "order", "metrics"} - set(state):
        raise CheckpointError(
            f"{fit.folder / LAST} is not a checkpoint that can be resumed: it has no {sorted(missing)}."
        )
    with checkpoint.understood(fit.folder / LAST):
        changed = changes(state["config"], fit.about["config"])
        fit.progress = Progress.of(state["progress"])
        fit.validated = dict(state["metrics"])
        return [
            *(f"changed: {change}" for change in changed.values()),
            *_model(fit, state),
            *_loss(fit, state),
            *_optimizer(fit, state, changed),
            *_guard(fit, state, changed),
            *_order(fit, state),
            *_best(fit, state),
            *_random(fit, state),
        ]


def return_to(fit: Fit, state: State) -> None:
    """Weights, their average, loss and optimizer as they were in a checkpoint of the same training."""
    _model(fit, state)
    _loss(fit, state)
    _optimizer(fit, state, {})


def changes(old: State, new: State) -> dict[str, str]:
    """Settings that differ between two configs, by their dotted name.

    Example:
        >>> changes({"loss": {"weight": 1.0}, "seed": 0}, {"loss": {"weight": 2.0}, "seed": 0})
        {'loss.weight': 'loss.weight: 1.0 -> 2.0'}
    """
    before, after = flat(old), flat(new)
    names = [name for name in {**before, **after} if name.split(".")[0] not in IGNORED]
    return {
        name: f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in names
        if before.get(name, flat) != after.get(name, flat)
    }


def _any(changed: Mapping[str, str], *groups: str) -> bool:
    return any(name.split(".")[0] in groups for name in changed)


def _model(fit: Fit, state: State) -> list[str]:
    try:
        fit.potential.load_state_dict(state["weights"])
    except RuntimeError as error:
        raise CheckpointError(
            f"The model does not fit the checkpoint {fit.folder / LAST}; a run can be resumed with the model "
            f"it began with only. {' '.join(str(error).splitlines()[1:4])}"
        ) from None
    if fit.average is None:
        return ["the average of the weights is dropped"] if state["average"] is not None else []
    if state["average"] is None:
        return ["the average of the weights starts now"]
    fit.average.module.load_state_dict(state["model"])
    fit.average.n_averaged.fill_(state["average"])
    return []


def _loss(fit: Fit, state: State) -> list[str]:
    """State of the weighting, term by term."""
    terms, saved = list(fit.loss.by_name), state["terms"]
    fresh = fit.loss.state_dict()
    if terms == saved and set(fresh) == set(state["loss"]):
        fit.loss.load_state_dict(state["loss"])
        return []
    kept = [term for term in terms if term in saved]
    told = [f"terms kept: {kept}"] if terms != saved else []
    told += [f"new terms: {new}"] if (new := [term for term in terms if term not in saved]) else []
    told += [f"terms dropped: {gone}"] if (gone := [term for term in saved if term not in terms]) else []
    if lost := sorted(set(fresh) ^ set(state["loss"])):
        told.append(f"the weighting has changed, so that its state starts anew: {lost}")
    fit.loss.load_state_dict(
        {
            name: _by_term(tensor, state["loss"][name], terms, saved) if name in state["loss"] else tensor
            for name, tensor in fresh.items()
        }
    )
    return told


def _by_term(fresh: Tensor, old: Tensor, terms: Sequence[str], saved: Sequence[str]) -> Tensor:
    """State of which each term has an entry: old where there was one."""
    if fresh.shape[:1] != (len(terms),) or old.shape[:1] != (len(saved),):
        return old if fresh.shape == old.shape else fresh
    mixed = fresh.clone()
    for row, term in enumerate(terms):
        if term in saved:
            mixed[row] = old[saved.index(term)]
    return mixed


def _optimizer(fit: Fit, state: State, changed: Mapping[str, str]) -> list[str]:
    """Moments of each parameter, learning rates and schedule; changed settings come from the config."""
    fresh, old = fit.optimizer.state_dict(), state["optimizer"]
    if "optimizer._target_" in changed:
        return ["the optimizer is another, so that it starts anew", *_follow(fit)]
    first = [group["lr"] for group in fresh["param_groups"]]
    same = _settings(fresh) == _settings(old)
    if same:
        for group, before in zip(fresh["param_groups"], old["param_groups"], strict=True):
            group["lr"] = before["lr"]
    fit.optimizer.load_state_dict(
        {"state": _moments(fit, fresh, state), "param_groups": fresh["param_groups"]}
    )
    if fit.scheduler is None:
        return []
    if same and state["scheduler"] is not None and not _any(changed, "scheduler"):
        fit.scheduler.load_state_dict(state["scheduler"])
        return []
    for group, rate in zip(fit.optimizer.param_groups, first, strict=True):
        group["lr"] = rate
    return _follow(fit)


def _settings(optimizer: State) -> list[dict[str, Any]]:
    """What the config says of each group of parameters; a schedule changes their learning rate."""
    hidden = ("params", "lr")
    return [{k: v for k, v in group.items() if k not in hidden} for group in optimizer["param_groups"]]


def _follow(fit: Fit) -> list[str]:
    """A changed schedule is followed from where it would be by now, not from where the old one was."""
    if fit.scheduler is None:
        return []
    if isinstance(fit.scheduler, ReduceLROnPlateau):
        return ["the schedule of the learning rate starts anew"]
    with warnings.catch_warnings():
        # torch cannot know that the optimizer's steps were taken by another process
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for _ in range(fit.progress.epochs):
            fit.scheduler.step()
    rate = fit.optimizer.param_groups[0]["lr"]
    return [f"the learning rate goes on at {rate:.3g}, where the schedule is by now"]


def _moments(fit: Fit, fresh: State, state: State) -> dict[int, Any]:
    """What the optimizer knows of each parameter: the model's by position, the loss's by term."""
    old = state["optimizer"]
    moments = {i: old["state"][i] for i in fresh["param_groups"][0]["params"] if i in old["state"]}
    terms, saved = list(fit.loss.by_name), state["terms"]
    learned = [parameter for group in fit.loss.parameter_groups() for parameter in group["params"]]
    indices = [[i for group in o["param_groups"][1:] for i in group["params"]] for o in (fresh, old)]
    for i, j, parameter in zip(*indices, learned, strict=False):
        if j in old["state"]:
            moments[i] = {
                name: _by_term(torch.zeros_like(parameter), value, terms, saved)
                if isinstance(value, Tensor) and value.dim()
                else value
                for name, value in old["state"][j].items()
            }
    return moments


def _guard(fit: Fit, state: State, changed: Mapping[str, str]) -> list[str]:
    """What lengths of gradients are usual, unless it is the gradient of another loss."""
    if not _any(changed, "loss", "weighting"):
        fit.guard.load(state["guard"])
    return []


def _order(fit: Fit, state: State) -> list[str]:
    now = order(fit)
    if now == state["order"]:
        return []
    told = [name for name, value in now.items() if value != state["order"].get(name)]
    steps = fit.progress.steps
    fit.progress.steps, fit.progress.taken, fit.progress.loss = 0, 0, 0.0
    again = f", so that {steps} steps of the epoch under way are taken again" if steps else ""
    return [f"the order of the structures has changed ({', '.join(told)}){again}"]


def _best(fit: Fit, state: State) -> list[str]:
    """The best score so far is that of the best checkpoint, if it means the same as before."""
    progress, path = fit.progress, fit.folder / BEST
    if fit.score == state["score"] and order(fit)["data"] == state["order"]["data"]:
        if path.exists():
            best = Progress.of(checkpoint.read(path)["progress"])
            progress.best_epoch, progress.best_score = best.best_epoch, best.best_score
        return []
    progress.best_epoch, progress.best_score = progress.epochs, None
    return ["scores before this point do not count, because the score or the data have changed"]


def _random(fit: Fit, state: State) -> list[str]:
    if len(state["random"]) != fit.fabric.world_size:
        return [f"the number of processes was {len(state['random'])} and is {fit.fabric.world_size}"]
    set_random(state["random"][fit.fabric.global_rank], fit.fabric.device)
    return []


def has_run(folder: Path) -> bool:
    """Whether a folder holds a training that can be resumed."""
    return (folder / LAST).exists()

"""Our side of a comparison: the loss that a case names, on the batch that the original saw."""

from __future__ import annotations

from typing import Any

import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import pesloss
from pesloss.losses import TotalLoss
from pesloss.recipes import from_config
from tests.parity.cases import Case
from tests.parity.drawing import Drawn


def loss_of(case: Case) -> TotalLoss:
    """Our loss, from its file in ``conf/loss`` or from the project's own config."""
    if case.config is not None:
        project, config = case.config
        return from_config(project, config, faithful=case.faithful, **case.options)
    with initialize_config_module("pesloss.conf", version_base="1.3"):
        config = compose("train", [f"loss={case.loss}"])["loss"]
    OmegaConf.set_struct(config, False)
    for key, value in case.overrides.items():
        OmegaConf.update(config, key, value, force_add=True)
    config.faithful = case.faithful
    return pesloss.build(config)


def measured(case: Case, drawn: Drawn) -> dict[str, Any]:
    """Total and gradient of every prediction, as the original's :func:`tests.parity.run.measured`."""
    loss = loss_of(case)
    loss.place()
    named = {case.rename.get(name, name): p for name, p in drawn.predictions.items()}
    total = loss(named, loss.prepare(drawn.batch))
    names = list(drawn.predictions)
    inputs = [drawn.predictions[name] for name in names]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    return {"total": total.detach(), "gradients": dict(zip(names, found, strict=True))}


def assert_equal(case: Case, drawn: Drawn, expected: dict[str, Any]) -> None:
    """Value and every gradient are those of the original."""
    found = measured(case, drawn)
    close = {"rtol": case.tolerance, "atol": case.tolerance}
    total = torch.tensor(expected["total"], dtype=torch.float64)
    torch.testing.assert_close(found["total"], total, **close, msg=lambda m: f"total: {m}")
    for name, gradient in found["gradients"].items():
        wanted = expected["gradients"].get(name)
        ours = torch.zeros_like(drawn.predictions[name]) if gradient is None else gradient
        theirs = torch.zeros_like(ours) if wanted is None else torch.tensor(wanted, dtype=torch.float64)
        if case.drawing.symmetric and ours.shape[1:] == (3, 3):
            ours, theirs = ours + ours.mT, theirs + theirs.mT
        torch.testing.assert_close(ours, theirs, **close, msg=lambda m, name=name: f"gradient of {name}: {m}")

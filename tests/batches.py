"""Small batches with everything that goes wrong: ragged sizes, one atom, missing labels, weights, groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pesloss.losses import PROPERTIES, Property, group_code

USER = Property("mtt::etot", rows="structure", shape=(2,), extensive=True, unit="eV")
DOS = Property("dos", shape=(9,), unit="1/eV")
PHASE = Property("phase")
ALL = {**PROPERTIES, **{prop.name: prop for prop in (USER, DOS, PHASE)}}
OUTPUTS: dict[str, tuple[str, Property]] = {
    prop.name: (label, prop)
    for label, prop in (
        ("energy", Property("energy_ensemble", shape=(4,))),
        ("energy", Property("energy_log_variance")),
        ("forces", Property("forces_ensemble", rows="atom", shape=(4, 3))),
        ("forces", Property("forces_variance", rows="atom", shape=(3,))),
        ("forces", Property("forces_nu", rows="atom", shape=(3,))),
        ("forces", Property("forces_alpha", rows="atom", shape=(3,))),
        ("forces", Property("forces_beta", rows="atom", shape=(3,))),
        ("forces", Property("forces_logits", rows="atom", shape=(3,))),
        ("forces", Property("forces_confidence", rows="atom", shape=(4,))),
        ("charges", Property("charges_logits", rows="atom")),
        ("phase", Property("phase_logits", shape=(3,))),
        ("dos", Property("dos_wide", shape=(12,))),
        ("dos", Property("dos_aligned", shape=(9,))),
    )
}
"""What is predicted beside the labels' own properties, and the label it is predicted for."""
PREDICTED = {**ALL, **{name: prop for name, (_, prop) in OUTPUTS.items()}}
SIZES = (1, 3, 5, 2, 7, 1, 4, 2)
CONFIG_TYPES = ("bulk", "surface", "bulk", "cluster", "surface", "bulk", "bulk", "cluster")
MISSING = float("nan")


def make(
    sizes: Sequence[int] = SIZES, *, seed: int = 0, missing: bool = True, weights: bool = True
) -> dict[str, Tensor]:
    """A batch in float64 with a label for every property; ``x::<property>`` is what a model would see."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    counts = torch.tensor(sizes, dtype=torch.long)
    num = {"structure": len(sizes), "atom": int(counts.sum()), "pair": int(counts.square().sum())}
    batch = {
        "ptr": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        "batch": torch.repeat_interleave(torch.arange(len(sizes)), counts),
        "index": torch.arange(len(sizes)) + 100,
        "numbers": torch.tensor([1, 6, 8])[torch.randint(3, (num["atom"],), generator=generator)],
        "positions": normal(num["atom"], 3),
        "cell": 3 * torch.eye(3, dtype=torch.float64) + 0.3 * normal(num["structure"], 3, 3),
        "chosen": torch.rand(num["atom"], generator=generator) < 0.7,
        "fixed": torch.rand(num["atom"], generator=generator) < 0.3,
        "reaction": torch.arange(len(sizes)),
        "reaction_coefficient": 1 + torch.arange(len(sizes), dtype=torch.float64) / 10,
        "reaction_size": torch.ones(len(sizes), dtype=torch.long),
        "config_type": torch.tensor(
            [group_code(name) for name in CONFIG_TYPES[: len(sizes)]], dtype=torch.long
        ),
        "dataset": torch.tensor([group_code("ab"[i % 2]) for i in range(len(sizes))], dtype=torch.long),
    }
    for prop in ALL.values():
        rows = num[prop.rows]
        batch[prop.name] = normal(rows, *prop.shape)
        batch[f"x::{prop.name}"] = normal(rows, *prop.shape)
        if missing and rows:
            batch[prop.name][torch.rand(rows, generator=generator) < 0.3] = MISSING
            batch[prop.name].view(-1)[::17] = MISSING  # single components as well
        if weights:
            batch[f"{prop.name}_weight"] = torch.rand(rows, generator=generator, dtype=torch.float64) + 0.5
            batch[f"{prop.name}_weight"][1::5] = 0
    if weights:
        batch["weight"] = torch.rand(len(sizes), generator=generator, dtype=torch.float64) + 0.5
        batch["weight"][2::6] = 0
        batch["atom_weight"] = torch.rand(num["atom"], generator=generator, dtype=torch.float64) + 0.5
    for _, prop in OUTPUTS.values():
        batch[f"x::{prop.name}"] = normal(num[prop.rows], *prop.shape)
    batch[PHASE.name] = batch[PHASE.name].abs().floor().clamp(max=2)
    return batch


def take(batch: dict[str, Tensor], structures: Sequence[int]) -> dict[str, Tensor]:
    """The batch of some of the structures, in that order; of none of them too."""
    index = torch.tensor(structures, dtype=torch.long)
    counts = batch["ptr"].diff()
    pairs = torch.cat([counts.new_zeros(1), counts.square().cumsum(0)])

    def rows(offsets: Tensor) -> Tensor:
        return torch.cat([torch.arange(*offsets[i : i + 2].tolist()) for i in structures] or [index])

    chosen = {"structure": index, "atom": rows(batch["ptr"]), "pair": rows(pairs)}
    counts = counts[index]
    num_atoms = batch["batch"].shape[0]
    taken = {
        key: value[chosen[_rows(key, value, num_atoms)]]
        for key, value in batch.items()
        if key not in ("ptr", "batch")
    }
    taken["ptr"] = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    taken["batch"] = torch.repeat_interleave(torch.arange(len(structures)), counts)
    return taken


def _rows(key: str, value: Tensor, num_atoms: int) -> str:
    """What a row of an entry is; known from the property it is of, else from its length."""
    name = key.removeprefix("x::").removesuffix("_weight")
    if name in PREDICTED:
        return PREDICTED[name].rows
    return "atom" if value.shape[0] == num_atoms else "structure"


def parameters(seed: int = 1) -> dict[str, Tensor]:
    """Parameters of the smallest model: one factor a component of every property."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(prop.shape, generator=generator, dtype=torch.float64) + 1).requires_grad_()
        for name, prop in PREDICTED.items()
    }


def predict(theta: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What that model predicts, non-linear in its parameters."""
    return {name: batch[f"x::{name}"] * theta[name] + theta[name].square() for name in PREDICTED}

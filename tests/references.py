"""The formulas again, in NumPy and in loops, without any of the library's code."""

from __future__ import annotations

import numpy as np
from torch import Tensor

PENALTIES = {
    "squared": lambda r: r**2,
    "absolute": np.abs,
    "huber": lambda r, d=0.7: np.where(np.abs(r) <= d, r**2 / 2, d * (np.abs(r) - d / 2)),
    "scaled_huber": lambda r, d=0.7: np.where(np.abs(r) <= d, r**2 / (2 * d), np.abs(r) - d / 2),
    "l2_norm": lambda r: np.sqrt((r.reshape(len(r), -1) ** 2).sum(1)),
}


def voigt(tensor: np.ndarray, shear: float) -> np.ndarray:
    """xx, yy, zz, yz, xz, xy of symmetrised 3x3 tensors."""
    t = (tensor + tensor.swapaxes(1, 2)) / 2
    return np.stack(
        [t[:, 0, 0], t[:, 1, 1], t[:, 2, 2], shear * t[:, 1, 2], shear * t[:, 0, 2], shear * t[:, 0, 1]], 1
    )


RESIDUALS = {
    "difference": lambda prediction, label, atoms: prediction - label,
    "per_atom": lambda prediction, label, atoms: np.array(
        [(p - q) / n for p, q, n in zip(prediction, label, atoms, strict=True)]
    ),
    "voigt": lambda prediction, label, atoms: voigt(prediction - label, 1),
    "voigt_doubled": lambda prediction, label, atoms: voigt(prediction - label, 2),
    "voigt_mandel": lambda prediction, label, atoms: voigt(prediction - label, np.sqrt(2)),
}


def reduced(reduction: str, costs: list[tuple[int, float, float]], entries: int) -> float:
    """Value from the (structure, weight, cost) of every component that counts, of ``entries`` in all."""
    total = sum(weight * cost for _, weight, cost in costs)
    if reduction == "per_structure":
        groups = {s: [w * c for t, w, c in costs if t == s] for s, _, _ in costs}
        return float(np.mean([np.mean(group) for group in groups.values()]))
    count = {"mean_over_weights": sum(w for _, w, _ in costs), "mean_over_entries": entries, "sum": 1}
    mean = total / count.get(reduction, len(costs))
    return float(np.sqrt(mean)) if reduction == "root_mean" else float(mean)


def term(
    batch: dict[str, Tensor], prediction: Tensor, prop: str, residual: str, penalty: str, reduction: str
) -> float:
    """Value of a term with the weights of a structure, its row and its atom, entry by entry."""
    label, ptr = batch[prop].numpy(), batch["ptr"].numpy()
    structure = np.searchsorted(ptr, np.arange(ptr[-1]), side="right") - 1
    per_atom = len(label) == len(structure)
    index = structure if per_atom else np.arange(len(label))
    r = RESIDUALS[residual](prediction.detach().numpy(), label, np.diff(ptr))
    r = r.reshape(len(r), -1)
    cost = PENALTIES[penalty](r).reshape(len(r), -1)
    costs = []
    for i, j in np.ndindex(cost.shape):
        weight = float(batch["weight"][index[i]] * batch[f"{prop}_weight"][i])
        weight *= float(batch["atom_weight"][i]) if per_atom else 1
        if weight != 0 and not np.isnan(cost[i, j]):
            costs.append((int(index[i]), weight, float(cost[i, j])))
    return reduced(reduction, costs, cost.size)

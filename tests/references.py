"""The formulas again, in NumPy and in loops, without any of the library's code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from ase.data import chemical_symbols
from torch import Tensor

from pesloss.losses import group_code

Batch: TypeAlias = Mapping[str, np.ndarray]


def huber(r: np.ndarray, d: float | np.ndarray = 0.7) -> np.ndarray:
    """Quadratic up to d, linear beyond."""
    finite = np.where(np.isinf(d), 0, d)
    return np.where(np.abs(r) <= d, r**2 / 2, finite * (np.abs(r) - finite / 2))


def log_cosh(r: np.ndarray, d: float = 0.7) -> np.ndarray:
    return d**2 * np.log(np.cosh(r / d))


def norm(values: np.ndarray) -> np.ndarray:
    """Length of each row; a missing component counts as zero where others are known."""
    return np.sqrt((np.nan_to_num(values.reshape(len(values), -1)) ** 2).sum(1))


def length(r: np.ndarray) -> np.ndarray:
    """Length of each row; unknown if a component is."""
    return np.sqrt((r.reshape(len(r), -1) ** 2).sum(1))


def stratum(r: np.ndarray, label: np.ndarray, bounds: list[float], values: list[float]) -> np.ndarray:
    """The value of the range that the length of each label is in, in the shape of its residual."""
    chosen = np.array([values[sum(size >= bound for bound in bounds)] for size in norm(label)])
    return chosen.reshape(-1, *[1] * (r.ndim - 1)) * np.ones_like(r)


def factors(r: np.ndarray, label: np.ndarray) -> np.ndarray:
    return stratum(r, label, [0.5, 1.0, 2.0], [1.0, 0.7, 0.4, 0.1])


PENALTIES = {
    "squared": lambda r, label: r**2,
    "absolute": lambda r, label: np.abs(r),
    "quantile": lambda r, label: np.where(r < 0, -0.3 * r, 0.7 * r),
    "huber": lambda r, label: huber(r),
    "scaled_huber": lambda r, label: huber(r) / 0.7,
    "log_cosh": lambda r, label: log_cosh(r),
    "scaled_log_cosh": lambda r, label: log_cosh(r) / 0.7,
    "quantile_huber": lambda r, label: huber(r),
    "l2_norm": lambda r, label: length(r),
    "squared_norm": lambda r, label: length(r) ** 2,
    "huber_norm": lambda r, label: huber(length(r)),
    "scaled_huber_norm": lambda r, label: huber(length(r)) / 0.7,
    "conditional_huber": lambda r, label: huber(r, 0.7 * factors(r, label)),
    "scaled_conditional_huber": lambda r, label: huber(r, 0.7 * factors(r, label)) / 0.7,
    "conditional_squared": lambda r, label: factors(r, label) * r**2,
    "stratified_huber": lambda r, label: huber(r, stratum(r, label, [0.5, 1.5], [np.inf, 0.7, 0.2])),
}


def voigt(tensor: np.ndarray, shear: float) -> np.ndarray:
    """xx, yy, zz, yz, xz, xy of symmetrised 3x3 tensors."""
    t = (tensor + tensor.swapaxes(1, 2)) / 2
    return np.stack(
        [t[:, 0, 0], t[:, 1, 1], t[:, 2, 2], shear * t[:, 1, 2], shear * t[:, 0, 2], shear * t[:, 0, 1]], 1
    )


def per_atom(r: np.ndarray, batch: Batch, power: float = 1.0) -> np.ndarray:
    return np.array([row / n**power for row, n in zip(r, np.diff(batch["ptr"]), strict=True)])


def by_element(r: np.ndarray, batch: Batch) -> np.ndarray:
    sigma = {1: 0.3, 8: 2.0}
    return np.array([row / sigma.get(int(z), 1.0) for row, z in zip(r, batch["numbers"], strict=True)])


def rectangles(r: np.ndarray) -> np.ndarray:
    """Running integral over the last axis."""
    return np.stack([0.1 * r[..., : i + 1].sum(-1) for i in range(r.shape[-1])], -1)


def trapezoids(r: np.ndarray) -> np.ndarray:
    """Running integral over the last axis, one point fewer."""
    pieces = 0.1 * (r[..., :-1] + r[..., 1:]) / 2
    return np.stack([pieces[..., : i + 1].sum(-1) for i in range(pieces.shape[-1])], -1)


def direction(vectors: np.ndarray) -> np.ndarray:
    return np.stack([v / np.sqrt((v**2).sum()) for v in vectors])


def modulo(r: np.ndarray, batch: Batch, quantum: float) -> np.ndarray:
    """Fractional coordinates between -1/2 and 1/2, in directions that are periodic."""
    wrapped, periodic = [], batch.get("pbc", np.ones((len(r), 3)))
    for row, cell, pbc in zip(r, batch["cell"], periodic, strict=True):
        f = np.linalg.solve(quantum * cell.T, row)
        wrapped.append((f - pbc * np.round(f)) @ (quantum * cell))
    return np.array(wrapped)


RESIDUALS = {
    "difference": lambda p, q, batch: p - q,
    "per_atom": lambda p, q, batch: per_atom(p - q, batch),
    "per_atom_root": lambda p, q, batch: per_atom(p - q, batch, 0.5),
    "voigt": lambda p, q, batch: voigt(p - q, 1),
    "voigt_doubled": lambda p, q, batch: voigt(p - q, 2),
    "voigt_mandel": lambda p, q, batch: voigt(p - q, np.sqrt(2)),
    "voigt_upper": lambda p, q, batch: (p - q).reshape(-1, 9)[:, [0, 4, 8, 5, 2, 1]],
    "voigt_lower_vasp": lambda p, q, batch: (
        (p - q).reshape(-1, 9)[:, [0, 4, 8, 3, 7, 6]] * [1, 1, 1, 2, 2, 2]
    ),
    "trace": lambda p, q, batch: np.array([np.trace(row) / 3 for row in p - q]),
    "relative": lambda p, q, batch: np.stack(
        [row / (size + 0.3) for row, size in zip(p - q, norm(q), strict=True)]
    ),
    "relative_entry": lambda p, q, batch: (p - q) / (np.abs(q) + 0.3),
    "scaled": lambda p, q, batch: 1602.1766208 * per_atom(p - q, batch),
    "standardized": lambda p, q, batch: (p - q) / 0.7,
    "standardized_voigt": lambda p, q, batch: voigt(p - q, 1) / 0.7,
    "standardized_element": lambda p, q, batch: by_element(p - q, batch),
    "cumulative": lambda p, q, batch: rectangles(p - q),
    "cumulative_trapezoid": lambda p, q, batch: trapezoids(p - q),
    "direction": lambda p, q, batch: direction(p) - direction(q),
    "magnitude": lambda p, q, batch: np.abs(p) - np.abs(q),
    "magnitude_vector": lambda p, q, batch: length(p) - length(q),
    "magnitude_label": lambda p, q, batch: p - np.abs(q),
    "modulo_quantum": lambda p, q, batch: modulo(p - q, batch, 1.0),
    "modulo_quantum_per_atom": lambda p, q, batch: per_atom(modulo(p - q, batch, 2.0), batch),
}


GROUPS = {"bulk": 2.0, "surface": 0.5}
"""Coefficients of config types; the others are one group of coefficient 1."""
COEFFICIENTS = {"H": 0.5, "O": 3.0}


def reduced(reduction: str, entries: list[dict[str, Any]], structures: int) -> float:
    """Value from every component: its structure, row, weight, cost (NaN without a label) and group."""
    labelled = [entry for entry in entries if not np.isnan(entry["cost"])]
    counted = [entry for entry in labelled if entry["weight"] != 0]
    total = sum(entry["weight"] * entry["cost"] for entry in counted)
    if reduction.startswith("per_structure"):
        return _over_structures(reduction, counted, structures)
    if reduction in ("per_element", "per_group", "per_group_sum"):
        return _over_groups(counted, reduction.removesuffix("_sum"), normalize=not reduction.endswith("_sum"))
    counts = {
        "mean_over_weights": sum(entry["weight"] for entry in counted),
        "mean_over_entries": len(entries),
        "mean_over_labelled": len(labelled),
        "mean_over_atoms": sum(entry["atoms"] for entry in counted),
        "sum": 1,
    }
    mean = total / counts.get(reduction, len(counted))
    return float(np.sqrt(mean)) if reduction == "root_mean" else float(mean)


def _over_structures(reduction: str, counted: list[dict[str, Any]], structures: int) -> float:
    means = [np.mean(costs) for costs in _grouped(counted, "structure").values()]
    if reduction == "per_structure_nonzero":
        means = [value for value in means if value != 0]
    return float(sum(means) / (structures if reduction == "per_structure_all" else len(means)))


def _over_groups(counted: list[dict[str, Any]], key: str, *, normalize: bool) -> float:
    means = {group: np.mean(costs) for group, costs in _grouped(counted, key).items()}
    coefficients = {group: {**COEFFICIENTS, **GROUPS}.get(group, 1.0) for group in means}
    total = sum(coefficients[group] * value for group, value in means.items())
    return float(total / sum(coefficients.values()) if normalize else total)


def _grouped(counted: list[dict[str, Any]], key: str) -> dict[Any, list[float]]:
    names = {entry[key] for entry in counted}
    return {n: [entry["weight"] * entry["cost"] for entry in counted if entry[key] == n] for n in names}


def term(
    batch: dict[str, Tensor], prediction: Tensor, prop: str, residual: str, penalty: str, reduction: str
) -> float:
    """Value of a term with the weights of a structure, its row and its atom, entry by entry."""
    label, ptr = batch[prop].numpy(), batch["ptr"].numpy()
    structure = np.searchsorted(ptr, np.arange(ptr[-1]), side="right") - 1
    per_atom = len(label) == len(structure)
    index = structure if per_atom else np.arange(len(label))
    numbers = {key: value.numpy() for key, value in batch.items()}
    r = RESIDUALS[residual](prediction.detach().numpy(), label, numbers)
    r = r.reshape(len(r), -1)
    cost = PENALTIES[penalty](r, label).reshape(len(r), -1)
    groups = {group_code(name): name for name in GROUPS}
    entries = []
    for i, j in np.ndindex(cost.shape):
        s = int(index[i])
        weight = float(batch["weight"][s] * batch[f"{prop}_weight"][i])
        weight *= float(batch["atom_weight"][i]) if per_atom else 1
        about = {
            "structure": s,
            "atoms": int(ptr[s + 1] - ptr[s]),
            "weight": weight,
            "cost": float(cost[i, j]),
        }
        about["per_group"] = groups.get(int(batch["config_type"][s]), "other")
        about["per_element"] = chemical_symbols[int(batch["numbers"][i])] if per_atom else None
        entries.append(about)
    return reduced(reduction, entries, len(ptr) - 1)

"""Which order and sign of the shear components a second account of the stress supports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

SLOTS = ("yz", "xz", "xy")
"""The shear components, in ASE's order."""

ENOUGH = 0.6
"""Correlation from which a second account says anything: about a third of the variance."""

CLEAR = 0.2
"""How much better its correlation is than that of a reading which it refutes."""

SIGNIFICANT = 3.0
"""Preference, in standard errors, that refutes; eleven readings are refuted at once."""

FEWEST = 8.0
"""Structures that have to take part in a refutation: five of one crystal may share an artefact."""

CLIP = 0.75
"""Quantile of the sizes beyond which a structure counts no more: one of a hundred times the size of the
others would decide alone."""


class Hypothesis(NamedTuple):
    """How a true shear tensor stands in the labels.

    Args:
        order: for yz, xz, xy the slot where it stands, 0 being that of yz.
        sign: −1 if all of it has the other sign.
    """

    order: tuple[int, ...]
    sign: int


AS_READ = Hypothesis((0, 1, 2), 1)
HYPOTHESES = tuple(Hypothesis(order, sign) for order, sign in product(permutations(range(3)), (1, -1)))


@dataclass(frozen=True)
class Agreement:
    """Labels compared with a second account of the same stresses.

    Args:
        method: where the account comes from, in words.
        structures: how many were compared.
        weight: how many of them take part, by the size of their tensors.
        correlations: of each hypothesis.
        open: hypotheses that the structures do not refute; all of them if they tell nothing.
        slope: labels over the account, by the best hypothesis.
    """

    method: str
    structures: int
    weight: float
    correlations: dict[Hypothesis, float]
    open: frozenset[Hypothesis]
    slope: float

    @property
    def best(self) -> Hypothesis:
        """What fits best; of equals, what changes least."""
        return max(self.open, key=lambda one: (round(self.correlations[one], 2), one == AS_READ, one.sign))

    @property
    def tells(self) -> bool:
        """Whether anything is refuted."""
        return len(self.open) < len(HYPOTHESES)


def agreement(
    method: str,
    expected: Float64[np.ndarray, "structures 3"],
    labels: Float64[np.ndarray, "structures 3"],
) -> Agreement | None:
    """Correlation of labels with what is expected, under each order and sign.

    A structure counts by the size of its tensors, up to a limit. One hypothesis refutes another if its
    correlation is better by ``CLEAR`` and the structures are enough for a ``preference`` of ``SIGNIFICANT``.

    Args:
        method: where the expectation comes from, in words.
        expected: shear components in the order of ``SLOTS``, in any unit of the right sign.
        labels: the same as they were read.

    Returns:
        ``None`` if there is nothing to compare.
    """
    first, second = clipped(expected), clipped(labels)
    size = math.sqrt(float((first**2).sum() * (second**2).sum()))
    if size == 0:
        return None
    correlations = {one: one.sign * float((first * second[:, one.order]).sum()) / size for one in HYPOTHESES}
    best = max(HYPOTHESES, key=lambda one: correlations[one])
    weight = participating(expected, labels)
    left = {one for one in HYPOTHESES if not _refutes(correlations[best], correlations[one], weight)}
    return Agreement(
        method, len(labels), weight, correlations, frozenset(left), _slope(expected, labels, best)
    )


def participating(
    first: Float64[np.ndarray, "structures components"], second: Float64[np.ndarray, "structures components"]
) -> float:
    """How many structures there are, those of little size counting little: ``(Σs)² / Σs²``."""
    sizes = np.sqrt(np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1))
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.any() else 0.0


def preference(correlation: float, other: float, observations: float) -> float:
    """By how many standard errors a better correlation is preferred: ``√(n ln (1 − r'²)/(1 − r²))``.

    This is the likelihood ratio of two linear models with Gaussian errors.
    """
    if correlation <= other:
        return 0.0
    unexplained = max(1 - correlation**2, 1e-12)
    return math.sqrt(observations * math.log((1 - max(other, 0.0) ** 2) / unexplained))


def clipped(
    vectors: Float64[np.ndarray, "structures components"],
) -> Float64[np.ndarray, "structures components"]:
    """The same vectors, none longer than most of them."""
    sizes = np.linalg.norm(vectors, axis=1)
    if not sizes.any():
        return vectors
    limit = float(np.quantile(sizes, CLIP)) or float(sizes.max())
    return vectors * (limit / np.maximum(sizes, limit))[:, None]


def shear(tensors: Float64[np.ndarray, "structures 3 3"]) -> Float64[np.ndarray, "structures 3"]:
    """Shear components, in the order of ``SLOTS``, of the symmetric part."""
    symmetric = (tensors + tensors.swapaxes(1, 2)) / 2
    return symmetric[:, (1, 0, 0), (2, 2, 1)]


def _refutes(correlation: float, other: float, observations: float) -> bool:
    return (
        observations >= FEWEST
        and correlation >= ENOUGH
        and correlation - other >= CLEAR
        and preference(correlation, other, observations) >= SIGNIFICANT
    )


def _slope(
    expected: Float64[np.ndarray, "structures 3"],
    labels: Float64[np.ndarray, "structures 3"],
    best: Hypothesis,
) -> float:
    sizes = np.linalg.norm(expected, axis=1)
    weights = 1 / np.maximum(sizes, np.quantile(sizes, CLIP) or sizes.max())[:, None] ** 2
    return float(
        (weights * expected * labels[:, best.order]).sum() / (weights * expected**2).sum() * best.sign
    )

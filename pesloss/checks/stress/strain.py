"""Response of the stress to strain: a crystal that is stretched pulls, one that is sheared shears back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from pesloss.checks.stress.agreement import (
    FEWEST,
    SIGNIFICANT,
    Agreement,
    agreement,
    clipped,
    participating,
    preference,
    shear,
)
from pesloss.checks.stress.families import Family
from pesloss.checks.stress.groups import Labels

MOVED = 1e-3
"""Strain from which there is a response to see: cells are printed with five digits and more."""

ENOUGH_TO_PARTIAL = 12
"""Structures of a family from which the response to stretching is taken out of the shear."""

SURE_OF_VOLUME = 0.8
"""Correlation of mean stress and volume from which the sign is judged: cells strained on purpose have it."""


@dataclass(frozen=True)
class VolumeResponse:
    """How the mean stress follows the volume, in families of similar cells.

    Args:
        structures: how many were compared.
        correlation: over all families, each with a scale of its own.
        sign: +1 or −1 if it is sure, 0 if it is not.
        bulk_modulus: median of the families, in eV/Å³.
    """

    structures: int
    correlation: float
    sign: int
    bulk_modulus: float


def response_to_shear(families: Sequence[Family], labels: Labels) -> Agreement | None:
    """Shear stress follows shear strain: ``σ_ij ∝ ε_ij`` with a positive modulus.

    What both have in common with the stretching of the cell is taken out, so that it does not count.
    """
    strains, stresses = [], []
    for family in families:
        strain, stress = shear(family.strain), shear(labels.of(family.rows))
        if np.abs(strain).max() >= MOVED:
            rest = _without_stretching(np.concatenate([strain, stress], axis=1), family.strain)
            scale = np.linalg.norm(rest[:, :3]) / (np.linalg.norm(rest[:, 3:]) or 1.0)
            strains.append(rest[:, :3])
            stresses.append(rest[:, 3:] * scale)
    if not strains:
        return None
    return agreement("the shear strain of the cells", np.concatenate(strains), np.concatenate(stresses))


def response_to_volume(families: Sequence[Family], labels: Labels) -> VolumeResponse | None:
    """The mean stress rises with the volume: ``d(tr σ / 3) / d(tr ε)``, the bulk modulus, is positive."""
    strains, stresses, moduli = [], [], []
    for family in families:
        strain = _centred_trace(family.strain)
        stress = _centred_trace(labels.of(family.rows)) / 3
        if np.abs(strain).max() >= MOVED and stress.any():
            moduli.append(float((strain * stress).sum() / (strain**2).sum()))
            strains.append(strain)
            stresses.append(stress * np.linalg.norm(strain) / np.linalg.norm(stress))
    if not strains:
        return None
    first, second = np.concatenate(strains), np.concatenate(stresses)
    weight = participating(first, second)
    correlation = _correlation(clipped(first), clipped(second))
    sure = (
        weight >= FEWEST
        and abs(correlation) >= SURE_OF_VOLUME
        and preference(abs(correlation), 0.0, weight) >= SIGNIFICANT
    )
    return VolumeResponse(
        len(first), correlation, int(np.sign(correlation)) if sure else 0, float(np.median(moduli))
    )


def _without_stretching(
    values: Float64[np.ndarray, "rows columns"], strain: Float64[np.ndarray, "rows 3 3"]
) -> Float64[np.ndarray, "rows columns"]:
    """What a constant and, if the structures are many, the three normal strains do not explain."""
    terms = np.ones((len(values), 1))
    if len(values) >= ENOUGH_TO_PARTIAL:
        terms = np.concatenate([terms, np.diagonal(strain, axis1=1, axis2=2)], axis=1)
    return values - terms @ np.linalg.lstsq(terms, values, rcond=1e-8)[0]


def _centred_trace(tensors: Float64[np.ndarray, "rows 3 3"]) -> Float64[np.ndarray, "rows 1"]:
    trace = np.trace(tensors, axis1=1, axis2=2)[:, None]
    return trace - trace.mean()


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))

"""What a loss computes from predictions before it compares: the potential can tell it too."""

from __future__ import annotations

from pesloss.losses import Derived, Property, PropertyTerm, TotalLoss
from pesloss.models.potential import DERIVATIVES, Network, Potential


def derived_by(loss: TotalLoss, network: Network) -> dict[str, Derived]:
    """Quantities such as the dipole of charges that a loss compares with labels of the same name.

    Args:
        loss: what is minimised.
        network: what it predicts itself is left out.
    """
    known = {*loss.required, *network.properties, *DERIVATIVES}
    terms = [term for term in loss.by_name.values() if isinstance(term, PropertyTerm)]
    found = {term.label: term.prediction for term in terms if term.label not in known}
    return {name: part for name, part in found.items() if part is not None and part.property == name}


def compared_by(loss: TotalLoss, potential: Potential) -> dict[str, Property]:
    """Properties whose errors can be told: labelled, and predicted or derived, under one name."""
    return {**loss.compared, **{name: loss.labels[name] for name in potential.derived}}

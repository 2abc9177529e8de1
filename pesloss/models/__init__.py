"""Potential energy surfaces: energies from networks, forces and stress from energies.

What every model promises is in :mod:`pesloss.models.contract`, as a function that tests it.
"""

from __future__ import annotations

from pesloss.models.painn import PaiNN
from pesloss.models.potential import Network, Potential

__all__ = ["Network", "PaiNN", "Potential"]

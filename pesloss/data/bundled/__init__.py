"""Molecules, crystals and isolated atoms that come with pesloss, all labelled with GFN1-xTB."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_HERE = Path(__file__).parent

FILES: Mapping[str, Path] = MappingProxyType(
    {
        "molecules": _HERE / "molecules.extxyz.gz",
        "crystals": _HERE / "crystals.extxyz.gz",
        "isolated_atoms": _HERE / "isolated_atoms.extxyz",
    }
)

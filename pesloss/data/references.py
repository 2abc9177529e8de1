"""Reference energies of the elements: the part of a total energy that only counts atoms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from pesloss.data.structures import Structure
from pesloss.losses.batch import sum_over_atoms
from pesloss.names import unknown

NUM_ELEMENTS = len(chemical_symbols)
SAME_ENERGY = 1e-6  # eV, between isolated atoms of one element

Spec: TypeAlias = "str | Mapping[str, float] | References"


class References(nn.Module):
    """Reference energies count atoms: ``E_ref = Σ_i E0(Z_i)``, and a model learns ``E − E_ref``.

    They are a float64 buffer, saved with the model, and stay float64 when the model is cast.

    Args:
        energies: element (symbol or atomic number) -> reference energy in eV.
        note: how they were found, for the log.

    Raises:
        KeyError: if an element does not exist.
        ValueError: if an energy is not finite.

    Example:
        >>> references = References({"H": -13.6, "O": -2041.8})
        >>> water = torch.tensor([8, 1, 1])
        >>> references(water, torch.zeros(3, dtype=torch.int64), 1).tolist()
        [-2069.0]
    """

    energies: Float64[Tensor, "elements"]

    def __init__(self, energies: Mapping[str, float] | Mapping[int, float], note: str = "given") -> None:
        super().__init__()
        table = torch.full((NUM_ELEMENTS,), torch.nan, dtype=torch.float64)
        for element, energy in energies.items():
            if not math.isfinite(energy):
                raise ValueError(f"The reference energy of {element} must be finite, got {energy}.")
            table[_number(element)] = energy
        self.register_buffer("energies", table)
        self.note = note

    @classmethod
    def none(cls, note: str = "none") -> References:
        """No reference: 0 eV for every element."""
        return cls(dict.fromkeys(range(NUM_ELEMENTS), 0.0), note)

    @classmethod
    def isolated_atoms(cls, structures: Iterable[Structure], elements: Iterable[int] = ()) -> References:
        """Energies of isolated atoms, so that the model learns atomisation energies.

        Args:
            structures: those of one atom count, if not periodic or of a config type such as ``IsolatedAtom``.
            elements: atomic numbers that need a reference; those of all the structures by default.

        Raises:
            ValueError: if an element has no isolated atom with an energy, or several that differ.
        """
        structures = list(structures)
        atoms = [s for s in structures if _is_isolated(s) and math.isfinite(_energy(s))]
        energies = _one_energy_each(atoms)
        needed = set(elements) or {int(z) for s in structures for z in s.numbers}
        if missing := needed - set(energies):
            raise ValueError(
                f"No isolated atom with an energy for {_symbols(missing)}; found {_symbols(energies)}. "
                "An isolated atom is one that is not periodic or has config_type IsolatedAtom."
            )
        return cls(energies, f"isolated atoms: {_symbols(energies)}")

    @classmethod
    def fit(cls, numbers: Sequence[np.ndarray], energies: Float64[np.ndarray, "structures"]) -> References:
        """Least squares over compositions, ``min Σ_s (E_s − Σ_Z n_s(Z) E0(Z))²``, in float64.

        Where the compositions leave a combination open, the solution of least norm is taken and ``note``
        says which combination it is.

        Args:
            numbers: atomic numbers of each structure.
            energies: total energies in eV; a structure with NaN is left out.

        Raises:
            ValueError: if no structure has an energy.
        """
        labelled = np.isfinite(energies)
        if not labelled.any():
            raise ValueError(
                f"References cannot be fitted: none of {len(energies)} structures has an energy."
            )
        counts = np.stack([np.bincount(z, minlength=NUM_ELEMENTS) for z in numbers])[labelled]
        elements = np.flatnonzero(counts.any(axis=0))
        counts = counts[:, elements]
        solution = np.linalg.lstsq(counts.astype(np.float64), energies[labelled], rcond=None)[0]
        found = {int(z): float(energy) for z, energy in zip(elements, solution, strict=True)}
        return cls(found, f"fit to {len(counts)} structures; {_determined(elements, counts)}")

    def forward(
        self,
        numbers: Int64[Tensor, "atoms"],
        structure_index: Int64[Tensor, "atoms"],
        num_structures: int,
    ) -> Float64[Tensor, "structures"]:
        """Sum of the reference energies of each structure, in eV.

        Raises:
            ValueError: if an element has no reference.
        """
        energies = self.energies[numbers]
        if energies.isnan().any():
            missing = numbers[energies.isnan()].unique().tolist()
            raise ValueError(
                f"No reference energy for {_symbols(missing)}; there is one for {_symbols(self.as_dict())}."
            )
        return sum_over_atoms(energies, structure_index, num_structures)

    def as_dict(self) -> dict[str, float]:
        """Reference energy of each element that has one, by symbol."""
        return {
            chemical_symbols[z]: e for z, e in enumerate(self.energies.tolist()) if z and not math.isnan(e)
        }

    def extra_repr(self) -> str:
        return self.note

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> References:
        energies = self.energies
        super()._apply(fn, recurse)
        # a model cast to float32 must not round total energies of thousands of eV
        self.energies = energies.to(self.energies.device)
        return self


def references(
    spec: Spec, structures: Sequence[Structure], isolated_atoms: Sequence[Structure] | None = None
) -> References:
    """Reference energies as a config asks for them.

    Args:
        spec: ``fit``, ``isolated_atoms``, ``none``, energies by element, or a ``References``.
        structures: the training structures.
        isolated_atoms: where to look for isolated atoms, if not among the structures.

    Raises:
        ValueError: if the name is unknown or the references cannot be found.
    """
    if isinstance(spec, References):
        return spec
    if isinstance(spec, Mapping):
        return References(spec)
    if spec == "none":
        return References.none()
    if spec == "isolated_atoms":
        elements = {int(z) for s in structures for z in s.numbers}
        return References.isolated_atoms(structures if isolated_atoms is None else isolated_atoms, elements)
    if spec == "fit":
        return References.fit([s.numbers for s in structures], np.array([_energy(s) for s in structures]))
    hint = "Energies by element, such as {'H': -13.6}, are also accepted."
    raise ValueError(f"{unknown('references', spec, ('fit', 'isolated_atoms', 'none'))} {hint}")


def _number(element: str | int) -> int:
    if isinstance(element, int) and 0 <= element < NUM_ELEMENTS:
        return element
    if element not in atomic_numbers:
        raise KeyError(f"Unknown element {element!r}; a symbol such as 'H' or an atomic number is accepted.")
    return atomic_numbers[element]


def _symbols(elements: Iterable[str | int]) -> str:
    return ", ".join(chemical_symbols[z] for z in sorted(map(_number, elements))) or "no element"


def _energy(structure: Structure) -> float:
    return float(structure.labels.get("energy", np.nan))


def _is_isolated(structure: Structure) -> bool:
    name = "".join(filter(str.isalpha, structure.config_type)).lower()
    return structure.num_atoms == 1 and (name in ("isolatedatom", "isolatedatoms") or not structure.pbc.any())


def _one_energy_each(atoms: Sequence[Structure]) -> dict[int, float]:
    energies: dict[int, float] = {}
    for atom in atoms:
        element, energy = int(atom.numbers[0]), _energy(atom)
        if abs(energies.setdefault(element, energy) - energy) > SAME_ENERGY:
            raise ValueError(
                f"{atom.source}: isolated atom {_symbols([element])} has {energy} eV, another one has "
                f"{energies[element]} eV; keep one of them."
            )
    return energies


def _determined(
    elements: Int64[np.ndarray, "elements"], counts: Int64[np.ndarray, "structures elements"]
) -> str:
    """Rank of the compositions in words, with the relations that leave energies of single elements open."""
    relations = _relations(counts)
    if not relations:
        return f"all {len(elements)} elements determined"
    rank = len(elements) - len(relations)
    words = "; ".join(_in_words(relation, [chemical_symbols[z] for z in elements]) for relation in relations)
    return f"rank {rank} of {len(elements)} elements, least norm taken: {words}"


def _relations(counts: Int64[np.ndarray, "structures elements"]) -> list[list[int]]:
    """Whole-number relations ``Σ_Z c_Z n(Z) = 0`` that all compositions obey, by exact elimination."""
    rows = [[Fraction(int(n)) for n in row] for row in np.unique(counts.T @ counts, axis=0)]
    size, pivots = counts.shape[1], []
    for column in range(size):
        lead = next((row for row in rows[len(pivots) :] if row[column]), None)
        if lead is None:
            continue
        rows.remove(lead)
        lead = [entry / lead[column] for entry in lead]
        rows = [[a - row[column] * b for a, b in zip(row, lead, strict=True)] for row in rows]
        rows.insert(len(pivots), lead)
        pivots.append(column)
    return [_relation(rows, pivots, free, size) for free in range(size) if free not in pivots]


def _relation(rows: list[list[Fraction]], pivots: list[int], free: int, size: int) -> list[int]:
    relation = [Fraction(0)] * size
    relation[free] = Fraction(1)
    for row, pivot in zip(rows, pivots, strict=False):
        relation[pivot] = -row[free]
    scale = math.lcm(*(entry.denominator for entry in relation))
    return [int(entry * scale) for entry in relation]


def _in_words(relation: Sequence[int], symbols: Sequence[str]) -> str:
    terms = [(symbol, c) for symbol, c in zip(symbols, relation, strict=True) if c]
    if len(terms) == 2 and terms[0][1] * terms[1][1] < 0:
        (first, a), (second, b) = terms
        return f"{first} and {second} always occur as {abs(b)}:{abs(a)}"
    left = " + ".join(_times(c, symbol) for symbol, c in terms if c > 0)
    right = " + ".join(_times(-c, symbol) for symbol, c in terms if c < 0)
    return f"always {left} = {right}"


def _times(count: int, symbol: str) -> str:
    return f"n({symbol})" if count == 1 else f"{count} n({symbol})"

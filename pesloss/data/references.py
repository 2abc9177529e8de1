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

from pesloss.data.storage.packed import Packed
from pesloss.data.storage.store import Store
from pesloss.losses.batch import Batch, group_code, sum_over_atoms
from pesloss.names import unknown

NUM_ELEMENTS = len(chemical_symbols)
SAME_ENERGY = 1e-6  # eV, between isolated atoms of one element
CERTAIN = 1e-9  # ratio of singular values, far above what rounding leaves of 0

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
    def isolated_atoms(cls, part: Packed, elements: Iterable[int] = ()) -> References:
        """Energies of isolated atoms, so that the model learns atomisation energies.

        Args:
            part: structures, of which those of one atom count, if not periodic or of a config type such as
                ``IsolatedAtom``.
            elements: atomic numbers that need a reference; those of all the structures by default.

        Raises:
            ValueError: if an element has no isolated atom with an energy, or several that differ.
        """
        energies = _one_energy_each(part)
        if missing := (set(elements) or _elements(part)) - set(energies):
            raise ValueError(
                f"No isolated atom with an energy for {_symbols(missing)}; found {_symbols(energies)}. "
                "An isolated atom is one that is not periodic or has config_type IsolatedAtom."
            )
        return cls(energies, f"isolated atoms: {_symbols(energies)}")

    @classmethod
    def fit(cls, chunks: Iterable[Batch]) -> References:
        """Least squares over compositions, ``min Σ_s (E_s − Σ_Z n_s(Z) E0(Z))²``, in float64.

        Where the compositions leave a combination open, the solution of least norm is taken and ``note``
        says which combination it is; an element of which no structure has an energy gets 0.

        Args:
            chunks: ``numbers``, ``batch`` and ``energy`` of structures, some at a time; one whose total
                energy (in eV) is NaN is left out.

        Raises:
            ValueError: if no structure has an energy.
        """
        # of a matrix of any length, R of its QR decomposition is all that least squares need
        factor, overlaps = np.zeros((0, NUM_ELEMENTS + 1)), np.zeros((NUM_ELEMENTS, NUM_ELEMENTS))
        total, labelled, seen = 0, 0, set()
        for chunk in chunks:
            counts, energies = _compositions(chunk)
            seen |= {*chunk["numbers"].unique().tolist()}
            total, labelled = total + len(chunk["ptr"]) - 1, labelled + len(energies)
            overlaps += counts.T @ counts
            factor = _triangular(np.vstack([factor, np.column_stack([counts, energies])]))
        if not labelled:
            raise ValueError(f"References cannot be fitted: none of {total} structures has an energy.")
        elements = np.flatnonzero(overlaps.any(axis=0))
        overlaps = overlaps[np.ix_(elements, elements)].astype(np.int64)
        solution, relations = _least_norm(factor[:, elements], factor[:, -1], overlaps)
        found = {int(z): float(energy) for z, energy in zip(elements, solution, strict=True)}
        without = sorted(seen - {*found})
        note = f"fit to {labelled} structures; {_determined(elements, relations)}"
        note += f"; 0 for {_symbols(without)}, of which no structure has an energy" if without else ""
        return cls(found | dict.fromkeys(without, 0.0), note)

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

    def of(self, store: Store) -> Float64[np.ndarray, "structures"]:
        """Sum of the reference energies of each structure of a store, in eV.

        Raises:
            ValueError: if an element has no reference.
        """
        chunks = Packed(store).chunks(("numbers",))
        device = self.energies.device
        sums = [self(c["numbers"].to(device), c["batch"].to(device), len(c["ptr"]) - 1) for c in chunks]
        return torch.cat([self.energies.new_zeros(0), *sums]).cpu().numpy()

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


def references(spec: Spec, part: Packed, isolated_atoms: Packed | None = None) -> References:
    """Reference energies as a config asks for them.

    Args:
        spec: ``fit``, ``isolated_atoms``, ``none``, energies by element, or a ``References``.
        part: the training structures, with total energies.
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
        return References.isolated_atoms(part if isolated_atoms is None else isolated_atoms, _elements(part))
    if spec == "fit":
        return References.fit(part.chunks(("numbers", "energy")))
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


def _elements(part: Packed) -> set[int]:
    return {z for chunk in part.chunks(("numbers",)) for z in chunk["numbers"].unique().tolist()}


def _one_energy_each(part: Packed) -> dict[int, float]:
    """Energy of each element that has an isolated atom."""
    positions = torch.nonzero(part.num_atoms == 1)[:, 0]
    batch = part.batch(positions)
    if "energy" not in batch:
        return {}
    codes = [group_code(name) for name in part.store.about["config_types"] if _means_isolated(name)]
    isolated = ~batch["pbc"].any(1) | torch.isin(batch["config_type"], torch.tensor(codes, dtype=torch.int64))
    energies: dict[int, float] = {}
    for i in torch.nonzero(isolated & batch["energy"].isfinite())[:, 0].tolist():
        element, energy = int(batch["numbers"][i]), float(batch["energy"][i])
        if abs(energies.setdefault(element, energy) - energy) > SAME_ENERGY:
            raise ValueError(
                f"{part.source(int(positions[i]))}: isolated atom {_symbols([element])} has {energy} eV, "
                f"another one has {energies[element]} eV; keep one of them."
            )
    return energies


def _means_isolated(config_type: str) -> bool:
    return "".join(filter(str.isalpha, config_type)).lower() in ("isolatedatom", "isolatedatoms")


def _compositions(
    chunk: Batch,
) -> tuple[Float64[np.ndarray, "labelled elements"], Float64[np.ndarray, "labelled"]]:
    """Numbers of atoms of each element, and energy, of the structures that have one."""
    num = len(chunk["ptr"]) - 1
    if "energy" not in chunk:
        return np.zeros((0, NUM_ELEMENTS)), np.zeros(0)
    cells = chunk["batch"] * NUM_ELEMENTS + chunk["numbers"]
    counts = torch.bincount(cells, minlength=num * NUM_ELEMENTS).reshape(num, NUM_ELEMENTS)
    labelled = chunk["energy"].isfinite()
    return counts[labelled].double().numpy(), chunk["energy"][labelled].double().numpy()


def _triangular(matrix: Float64[np.ndarray, "rows columns"]) -> Float64[np.ndarray, "fewer columns"]:
    """R of the QR decomposition; columns without a number stay so."""
    used = matrix.any(axis=0)
    triangle = np.linalg.qr(matrix[:, used], mode="r")
    factor = np.zeros((len(triangle), matrix.shape[1]))
    factor[:, used] = triangle
    return factor


def _least_norm(
    matrix: Float64[np.ndarray, "rows elements"],
    target: Float64[np.ndarray, "rows"],
    overlaps: Int64[np.ndarray, "elements elements"],
) -> tuple[Float64[np.ndarray, "elements"], list[list[int]]]:
    """Least squares of least norm, and the relations that leave it open."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    # elimination in whole numbers is slow for many elements, and needed where rounding could hide a relation
    certain = len(s) == len(overlaps) and s[-1] > CERTAIN * s[0]
    relations = [] if certain else _relations(overlaps)
    rank = len(overlaps) - len(relations)
    return vt[:rank].T @ (u[:, :rank].T @ target / s[:rank]), relations


def _determined(elements: Int64[np.ndarray, "elements"], relations: Sequence[Sequence[int]]) -> str:
    """Rank of the compositions in words, with the relations that leave energies of single elements open."""
    if not relations:
        return f"all {len(elements)} elements determined"
    rank = len(elements) - len(relations)
    words = "; ".join(_in_words(relation, [chemical_symbols[z] for z in elements]) for relation in relations)
    return f"rank {rank} of {len(elements)} elements, least norm taken: {words}"


def _relations(overlaps: Int64[np.ndarray, "elements elements"]) -> list[list[int]]:
    """Whole-number relations ``Σ_Z c_Z n(Z) = 0`` that all compositions obey, by exact elimination.

    Args:
        overlaps: ``Σ_s n_s(Z) n_s(Z')``, which has the same relations as the compositions.
    """
    rows = [[Fraction(int(n)) for n in row] for row in overlaps]
    size, pivots = len(overlaps), []
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

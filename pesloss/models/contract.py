"""What every model of a potential energy surface promises, run as a test on any of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions
from pesloss.losses.properties import as_properties, as_property

Predict = Callable[[Batch, Collection[str]], Predictions]
Pack = Callable[[list[Atoms]], Batch]
Answer = dict[str, Tensor]
"""The predictions of one structure, by property."""


class ContractError(AssertionError):
    """A model breaks a law of physics or of batching; the message has one line for each violation."""


def check_potential(
    predict: Predict,
    structures: Sequence[Atoms],
    to_batch: Pack,
    properties: Collection[str] = ("energy", "forces"),
    *,
    parameters: Iterable[Tensor] = (),
    tolerance: float = 1e-6,
    step: float = 1e-4,
    far: float = 100.0,
) -> None:
    """An energy surface is extensive and invariant, and its forces and stress are its derivatives.

    Each of these laws is checked on every structure.

    - Predictions are finite and of the right shape; losses have finite gradients by the parameters.
    - No structure sees another of its batch; far copies and supercells add up; a lone atom feels no force.
    - Predictions turn with a rotation, and do not change with (lattice) translations and permutations.
    - ``forces = −∂E/∂R``, ``stress = (1/V) ∂E/∂ε`` and ``virial = −∂E/∂ε`` by central differences.

    Args:
        predict: the model: properties by name from a batch and the names asked for, in double precision.
        structures: a few small structures out of equilibrium. Laws of cells are checked on the periodic ones.
        to_batch: packs structures with their neighbours, positions in float64.
        properties: what to check; the energy is always asked for.
        parameters: of the model, to check that losses can be differentiated by them; none by default.
        tolerance: largest difference allowed, relative to the largest value, or absolute if that is below 1.
            The stress is compared times the volume, in eV.
        step: of central differences, in Å for positions and without unit for strains.
        far: distance between copies in Å at which they no longer interact.

    Raises:
        ContractError: if laws are broken; it names each law, the structure, the property and the violation.
        KeyError: if a property is not among :data:`pesloss.losses.properties.PROPERTIES`.
        ValueError: if there are no structures, or positions are not in float64.
    """
    names = tuple(as_properties(("energy", *properties)))
    if not structures:
        raise ValueError("check_potential needs at least one structure, got none.")
    found = to_batch(list(structures))["positions"].dtype
    if found != torch.float64:
        raise ValueError(
            f"check_potential takes small differences and needs positions in torch.float64, got {found}."
        )
    model = Model(predict, to_batch, names, tolerance, step, far)
    broken = list(_violations(model, list(structures), list(parameters)))
    if broken:
        raise ContractError("\n".join(["The model breaks its contract.", *broken]))


def _violations(model: Model, structures: list[Atoms], parameters: list[Tensor]) -> Iterator[str]:
    silent = list(answers(model, structures))
    if silent:  # nothing else can be said about a model that does not answer
        yield from silent
        return
    for law in LAWS:
        yield from law(model, structures)
    if parameters:
        yield from gradients(model, structures, parameters)


@dataclass(frozen=True)
class Model:
    """A model under test, and how strictly it is tested: see :func:`check_potential`."""

    predict: Predict
    to_batch: Pack
    properties: tuple[str, ...]
    tolerance: float
    step: float
    far: float

    def __call__(self, structures: list[Atoms], properties: Collection[str] | None = None) -> list[Answer]:
        """Predictions of each structure, all from one batch."""
        names = self.properties if properties is None else properties
        batch = self.to_batch(structures)
        predictions = self.predict(batch, names)
        sizes = batch["ptr"].diff().tolist()
        rows = {
            name: predictions[name].detach().split(sizes)
            if as_property(name).rows == "atom"
            else predictions[name].detach().unbind()
            for name in names
        }
        return [{name: rows[name][k] for name in names} for k in range(len(structures))]

    def energies(self, structures: list[Atoms]) -> Float[Tensor, "structures"]:
        """Energies alone, a hundred structures at a time."""
        parts = [structures[k : k + 100] for k in range(0, len(structures), 100)]
        return torch.stack([answer["energy"] for part in parts for answer in self(part, ("energy",))])

    def compare(self, law: str, atoms: Atoms, found: Answer, expected: Answer) -> Iterator[str]:
        """Sentences on the properties that are not as expected."""
        for name, value in expected.items():
            size = (found[name] - value).abs().max().item()
            allowed = self.tolerance * max(1.0, value.abs().max().item())
            if not size <= allowed:  # a NaN is a violation
                yield (
                    f"{law}: {name} of {atoms.get_chemical_formula()} is off by {size:.3g}, "
                    f"allowed {allowed:.1g}; expected {_short(value)}, found {_short(found[name])}."
                )


def answers(model: Model, structures: list[Atoms]) -> Iterator[str]:
    """A model predicts what it is asked for: finite numbers, one entry a structure or an atom."""
    batch = model.to_batch(structures)
    predictions = model.predict(batch, model.properties)
    for name in model.properties:
        prop = as_property(name)
        rows = len(batch["positions"]) if prop.rows == "atom" else len(structures)
        if name not in predictions:
            yield f"answers: '{name}' was asked for and is not among the predictions {sorted(predictions)}."
        elif predictions[name].shape != (rows, *prop.shape):
            shape = tuple(predictions[name].shape)
            expected = (rows, *prop.shape)
            yield f"answers: {name} has shape {shape}, expected {expected}, one entry a {prop.rows}."
        elif not predictions[name].isfinite().all():
            bad = int((~predictions[name].isfinite()).sum())
            yield f"answers: {name} has {bad} numbers that are not finite."


def independence(model: Model, structures: list[Atoms]) -> Iterator[str]:
    """No structure sees the others of its batch."""
    for atoms, together in zip(structures, model(structures), strict=True):
        yield from model.compare("independence", atoms, together, model([atoms])[0])


def extensivity(model: Model, structures: list[Atoms]) -> Iterator[str]:
    """Twice the matter has twice the energy: two far copies of a molecule, two cells of a crystal."""
    for atoms in structures:
        once, twice = model([atoms, _doubled(atoms, model.far)])
        expected = {}
        for name, value in once.items():
            if as_property(name).rows == "atom":
                expected[name] = torch.cat([value, value])
            elif as_property(name).extensive and not (name == "dipole" and atoms.pbc.any()):
                expected[name] = 2 * value
            elif name == "stress" and atoms.pbc.any():
                expected[name] = value
        yield from model.compare("extensivity", atoms, twice, expected)


def rotation(model: Model, structures: list[Atoms]) -> Iterator[str]:
    """Scalars stay, vectors and tensors turn with the atoms."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    for atoms in structures:
        before, after = model([atoms, _mapped(atoms, turn.T)])
        expected = {name: _turned(value, name, torch.from_numpy(turn)) for name, value in before.items()}
        yield from model.compare("rotation", atoms, after, expected)


def translation(model: Model, structures: list[Atoms]) -> Iterator[str]:
    """Nothing depends on the origin, nor on which periodic image of an atom is meant."""
    for atoms in structures:
        moved = atoms.copy()
        moved.positions += [0.7, -1.3, 2.1]
        before, after = model([atoms, moved])
        yield from model.compare("translation", atoms, after, before)
        if atoms.pbc.any():
            moved.positions[0] += atoms.cell.array[int(np.argmax(atoms.pbc))]
            image = model([moved])[0]
            expected = {name: value for name, value in before.items() if name != "dipole"}
            yield from model.compare("translation by a lattice vector", atoms, image, expected)


def permutation(model: Model, structures: list[Atoms]) -> Iterator[str]:
    """The order in which atoms are listed means nothing."""
    for atoms in structures:
        order = np.random.default_rng(0).permutation(len(atoms))
        before, after = model([atoms, atoms[order]])
        expected = {
            name: value[order] if as_property(name).rows == "atom" else value
            for name, value in before.items()
        }
        yield from model.compare("permutation", atoms, after, expected)


def forces(model: Model, structures: list[Atoms]) -> Iterator[str]:
    """``forces = −∂E/∂R``."""
    if "forces" not in model.properties:
        return
    for atoms in structures:
        slopes = _slopes(
            model,
            [_displaced(atoms, k, model.step) for k in range(3 * len(atoms))],
            [_displaced(atoms, k, -model.step) for k in range(3 * len(atoms))],
        )
        yield from model.compare("forces = −∂E/∂R", atoms, model([atoms])[0], {"forces": -slopes.view(-1, 3)})


def stress(model: Model, structures: list[Atoms]) -> Iterator[str]:
    """``virial = −∂E/∂ε``, ``stress · V = ∂E/∂ε``, compared in eV."""
    for atoms in structures:
        if not {"stress", "virial"} & set(model.properties):
            return
        slopes = _strain_slopes(model, atoms)
        found = model([atoms])[0]
        if "virial" in found:
            yield from model.compare("virial = −∂E/∂ε", atoms, found, {"virial": -slopes})
        size = atoms.cell.volume
        if "stress" in found and size > 0:
            times_volume = {"stress": found["stress"] * size}
            yield from model.compare("V · stress = ∂E/∂ε", atoms, times_volume, {"stress": slopes})


def lone_atom(model: Model, structures: list[Atoms]) -> Iterator[str]:
    """An atom without neighbours has an energy and feels nothing."""
    numbers = sorted({int(number) for atoms in structures for number in atoms.numbers})
    lone = [Atoms([number], positions=np.zeros((1, 3))) for number in numbers]
    for atoms, answer in zip(lone, model(lone), strict=True):
        expected = {name: torch.zeros_like(answer[name]) for name in ("forces", "virial") if name in answer}
        yield from model.compare("lone atom", atoms, answer, expected)
        yield from (
            f"lone atom: {name} of {atoms.symbols} is not finite."
            for name, value in answer.items()
            if not value.isfinite().all()
        )


LAWS = (independence, extensivity, rotation, translation, permutation, forces, stress, lone_atom)


def gradients(model: Model, structures: list[Atoms], parameters: list[Tensor]) -> Iterator[str]:
    """A loss of any prediction has finite gradients by the parameters."""
    predictions = model.predict(model.to_batch(structures), model.properties)
    for name in model.properties:
        if not predictions[name].requires_grad:
            yield f"gradients: {name} is cut off from the parameters; is the model in training mode?"
            continue
        found = torch.autograd.grad(
            predictions[name].square().sum(), parameters, retain_graph=True, allow_unused=True
        )
        bad = sum(int((~value.isfinite()).sum()) for value in found if value is not None)
        if bad:
            yield f"gradients: a loss of {name} has {bad} gradients by parameters that are not finite."


def _short(value: Tensor) -> str:
    return f"{value.item():.6g}" if value.numel() == 1 else f"an array of size up to {value.abs().max():.6g}"


def _turned(value: Tensor, name: str, turn: Tensor) -> Tensor:
    shape = as_property(name).shape
    if shape == (3,):
        return value @ turn.T
    return turn @ value @ turn.T if shape == (3, 3) else value


def _mapped(atoms: Atoms, matrix: np.ndarray) -> Atoms:
    """Atoms and lattice vectors after a linear map of space."""
    mapped = atoms.copy()
    mapped.set_cell(atoms.cell.array @ matrix)
    mapped.positions = atoms.positions @ matrix
    return mapped


def _doubled(atoms: Atoms, far: float) -> Atoms:
    if atoms.pbc.any():
        repeats = [1, 1, 1]
        repeats[int(np.argmax(atoms.pbc))] = 2
        return atoms.repeat(repeats)
    copy = atoms.copy()
    copy.positions[:, 0] += far + np.ptp(atoms.positions[:, 0])
    return atoms + copy


def _displaced(atoms: Atoms, component: int, step: float) -> Atoms:
    moved = atoms.copy()
    moved.positions[component // 3, component % 3] += step
    return moved


def _slopes(model: Model, plus: list[Atoms], minus: list[Atoms]) -> Float[Tensor, "components"]:
    """Central differences of the energy."""
    return (model.energies(plus) - model.energies(minus)) / (2 * model.step)


def _strain_slopes(model: Model, atoms: Atoms) -> Float[Tensor, "3 3"]:
    """∂E/∂ε by symmetric strains."""
    rows, columns = np.triu_indices(3)
    plus, minus = [], []
    for a, b in zip(rows, columns, strict=True):
        strain = np.zeros((3, 3))
        strain[a, b] += model.step / 2
        strain[b, a] += model.step / 2
        plus.append(_mapped(atoms, np.eye(3) + strain))
        minus.append(_mapped(atoms, np.eye(3) - strain))
    slopes = torch.zeros(3, 3, dtype=torch.float64)
    # the strain of both off-diagonal entries together is one step: its slope is that of one of them
    slopes[rows, columns] = slopes[columns, rows] = _slopes(model, plus, minus)
    return slopes

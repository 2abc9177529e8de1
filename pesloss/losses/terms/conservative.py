"""What forces of a potential energy surface obey, for models that do not make them its derivatives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pesloss.losses.batch import (
    Batch,
    Predictions,
    num_structures,
    predicted,
    structure_of_atom,
    sum_over_atoms,
)
from pesloss.losses.penalties import Penalty
from pesloss.losses.properties import Property, as_property
from pesloss.losses.random import Draws
from pesloss.losses.reductions import Reduction
from pesloss.losses.terms.property import PropertyTerm
from pesloss.losses.terms.restated import Vanishing, check_connected, differentiable

Model: TypeAlias = Callable[[Batch, Collection[str]], Predictions]


class CurlPenalty(Vanishing):
    r"""Forces that are no gradient of an energy have a Jacobian that is not symmetric.

    .. math:: \frac{1}{3N} \left\| (J - J^\top) v \right\|^2, \qquad J = \partial F / \partial R,
              \qquad v_k = \pm 1

    Its mean over the random signs v is :math:`\|J - J^\top\|_F^2 / 3N`. Each value takes two derivatives of
    the forces and each gradient a third: the model must have them, and cannot be one that
    ``torch.compile`` has made. ``prepare`` makes the positions differentiable; the model sees that batch.

    Args:
        property: the forces, of a head of their own: ``forces``, or a :class:`Property` such as
            ``direct_forces``.
        penalty: part or name, of the components of :math:`(J - J^\top) v`.
        reduction: part or name; ``per_structure`` is the formula above, then the mean over structures.
        weight: prior weight in the total.
        weighted_by: entries of the batch that weight the rows, see :class:`PropertyTerm`.
        pair: instead of random signs, the one pair of components (a, b) of the flattened forces of the whole
            batch: :math:`(\partial F_a / \partial R_b - \partial F_b / \partial R_a)^2`.
        seed: of the random signs.

    Raises:
        ValueError: if the property is not a vector of atoms, or ``pair`` no pair of components there are.
        RuntimeError: if the forces cannot be differentiated by the positions.

    References:
        The estimator: M. F. Hutchinson, Commun. Stat. Simul. Comput. 18, 1059 (1989).
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any] = "forces",
        *,
        penalty: Penalty | str = "squared",
        reduction: Reduction | str = "per_structure",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
        pair: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        self.property = as_property(property)
        _check_vector(self.property)
        curl = Property("curl", rows="atom", shape=(3,), unit=_per_length(self.property.unit))
        super().__init__(
            PropertyTerm(curl, penalty=penalty, reduction=reduction, weight=weight, weighted_by=weighted_by)
        )
        if pair is not None and (len(pair) != 2 or min(pair) < 0):
            raise ValueError(f"CurlPenalty needs a pair of components of the forces, got {list(pair)}.")
        self.pair = None if pair is None else tuple(pair)
        self.draws = Draws("curl", seed)

    @property
    def required(self) -> Mapping[str, Property]:
        return {self.property.name: self.property}

    def prepare(self, batch: Batch) -> Batch:
        return differentiable(batch, "positions")

    def advance(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().advance(pool)
        self.draws.advance()

    def prediction(self, predictions: Predictions, batch: Batch) -> Float[Tensor, "atoms 3"]:
        forces, positions = predicted(predictions, self.property.name), batch["positions"]
        check_connected(self.property.name, forces, positions)
        return curl(forces, positions, self._direction(batch, forces))

    def labelled(self, batch: Batch, predictions: Predictions | None = None) -> Batch:
        batch = super().labelled(batch)
        if self.pair is None:
            return batch
        label = torch.full_like(batch["curl"], float("nan")).flatten()
        if max(self.pair) >= len(label):
            raise ValueError(f"pair {self.pair} is of a batch with more than {len(label)} components.")
        label[self.pair[0]] = 0.0
        return {**batch, "curl": label.view(-1, 3)}

    def formula(self) -> str:
        v = "random signs" if self.pair is None else f"one component, {self.pair[1]}"
        return f"{self.term.formula()}; curl = (J − Jᵀ)v, J = ∂{self.property.name}/∂positions, v: {v}"

    def _direction(self, batch: Batch, forces: Tensor) -> Float[Tensor, "atoms 3"]:
        if self.pair is None:
            return self.draws.signs(batch, "atom", 3).to(forces.dtype)
        direction = torch.zeros_like(forces).flatten()
        direction[self.pair[1]] = 1.0
        return direction.view(-1, 3)


class RotationPenalty(Vanishing):
    r"""An energy that changes when a structure is turned as a whole breaks a symmetry of nature.

    .. math:: \tau = \partial E / \partial \omega = \sum_i r_i \times \frac{\partial E}{\partial r_i}
              + \sum_a h_a \times \frac{\partial E}{\partial h_a}

    for rotations by a small vector :math:`\omega` of all atoms :math:`r_i` and lattice vectors :math:`h_a`.
    Of ``energy`` it is a derivative of its own: ``prepare`` makes positions and cell differentiable. Of
    ``forces`` it is the net torque :math:`-\sum_i r_i \times F_i` of the forces predicted, which costs
    nothing and says something of molecules only: structures with a periodic direction do not count.

    Args:
        property: ``energy`` or ``forces``, or a :class:`Property` like them.
        penalty: part or name, of the three components of τ in eV; ``l2_norm`` is its length.
        reduction: part or name.
        weight: prior weight in the total.
        weighted_by: entries of the batch that weight the structures, see :class:`PropertyTerm`.

    Raises:
        ValueError: if the property is neither an energy of structures nor a vector of atoms.
        RuntimeError: if the energy cannot be differentiated by positions and cell.

    References:
        B. Rhodes et al., Orb-v3, arXiv:2504.06231 ("equigrad", of energies; their generator is a full matrix,
        whose derivative has √2 times the norm of τ).
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any] = "energy",
        *,
        penalty: Penalty | str = "l2_norm",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
    ) -> None:
        self.property = as_property(property)
        if (self.property.rows, tuple(self.property.shape)) not in (("structure", ()), ("atom", (3,))):
            raise ValueError(
                f"A rotation acts on an energy of structures or on forces of atoms; '{self.property.name}' "
                f"has one row a {self.property.rows} of shape {tuple(self.property.shape)}."
            )
        torque = Property("torque", shape=(3,), unit="eV")
        super().__init__(
            PropertyTerm(torque, penalty=penalty, reduction=reduction, weight=weight, weighted_by=weighted_by)
        )

    @property
    def required(self) -> Mapping[str, Property]:
        return {self.property.name: self.property}

    @property
    def of_forces(self) -> bool:
        """Whether it is the torque of forces, and not a derivative of an energy."""
        return self.property.rows == "atom"

    def prepare(self, batch: Batch) -> Batch:
        return batch if self.of_forces else differentiable(batch, "positions", "cell")

    def prediction(self, predictions: Predictions, batch: Batch) -> Float[Tensor, "structures 3"]:
        value, positions, cell = predicted(predictions, self.property.name), batch["positions"], batch["cell"]
        if self.of_forces:
            return -_net_torque(positions, value, batch)
        check_connected(self.property.name, value, positions, cell)
        by_positions, by_cell = torch.autograd.grad(
            value.sum(), [positions, cell], create_graph=True, materialize_grads=True
        )
        turned_cell = torch.linalg.cross(cell, by_cell).sum(1)
        return _net_torque(positions, by_positions, batch) + turned_cell

    def labelled(self, batch: Batch, predictions: Predictions | None = None) -> Batch:
        batch = super().labelled(batch)
        if not self.of_forces or "pbc" not in batch:
            return batch
        periodic = batch["pbc"].any(1, keepdim=True)
        return {**batch, "torque": torch.where(periodic, torch.nan, batch["torque"])}

    def formula(self) -> str:
        name = self.property.name
        of_energy = f"∂{name}/∂ω, ω a rotation of atoms and cell"
        torque = f"−Σ r × {name}, of molecules" if self.of_forces else of_energy
        return f"{self.term.formula()}; torque = {torque}"


class EquivariancePenalty(Vanishing):
    r"""What a model says of a turned structure is what it says of the structure, turned.

    .. math:: \| F(R x) - R\, F(x) \|^2

    for one random rotation R a structure and step. The model is asked a second time.

    Args:
        property: a number, vector or 3×3 tensor of structures or atoms that the model predicts.
        penalty: part or name, of the components.
        reduction: part or name.
        weight: prior weight in the total.
        weighted_by: entries of the batch that weight the rows, see :class:`PropertyTerm`.
        seed: of the random rotations.

    Raises:
        ValueError: if the property is none of these.
        RuntimeError: if no model was attached.

    References:
        K. Shoemake, in Graphics Gems III, 124 (1992) (uniform rotations).
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any] = "forces",
        *,
        penalty: Penalty | str = "squared",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        self.property = as_property(property)
        if self.property.rows == "pair" or tuple(self.property.shape) not in ((), (3,), (3, 3)):
            raise ValueError(
                f"A number, vector or 3×3 tensor of structures or atoms can be turned; "
                f"'{self.property.name}' has one row a {self.property.rows} of shape "
                f"{tuple(self.property.shape)}."
            )
        error = replace(self.property, name="equivariance_error")
        super().__init__(
            PropertyTerm(error, penalty=penalty, reduction=reduction, weight=weight, weighted_by=weighted_by)
        )
        self.draws = Draws("rotation", seed)
        self._model: tuple[Model, ...] = ()

    @property
    def required(self) -> Mapping[str, Property]:
        return {self.property.name: self.property}

    def attach(self, model: nn.Module) -> None:
        self._model = (model,)  # its parameters are not those of the loss

    def advance(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().advance(pool)
        self.draws.advance()

    def prediction(self, predictions: Predictions, batch: Batch) -> Tensor:
        if not self._model:
            raise RuntimeError("EquivariancePenalty asks the model twice: call loss.attach(model) first.")
        name = self.property.name
        rotation = random_rotations(self.draws.normal(batch, "structure", 4)).to(batch["positions"].dtype)
        of_atoms = rotation[structure_of_atom(batch, batch["positions"].shape[0])]
        turned = {
            **batch,
            "positions": _rotated(batch["positions"], of_atoms),
            "cell": batch["cell"] @ rotation.mT,
        }
        before, after = predicted(predictions, name), predicted(self._model[0](turned, (name,)), name)
        return after - _rotated(before, of_atoms if self.property.rows == "atom" else rotation)

    def formula(self) -> str:
        name = self.property.name
        return f"{self.term.formula()}; equivariance_error = {name}(Rx) − R {name}(x), R a random rotation"


def curl(
    forces: Float[Tensor, "atoms 3"], positions: Float[Tensor, "atoms 3"], direction: Float[Tensor, "atoms 3"]
) -> Float[Tensor, "atoms 3"]:
    """Antisymmetric part of the forces' Jacobian along a direction, (J − Jᵀ)v, ready to be differentiated."""
    dummy = direction.detach().clone().requires_grad_()
    (back,) = torch.autograd.grad(
        forces, positions, dummy, create_graph=True, retain_graph=True, materialize_grads=True
    )
    # Jᵀu is linear in u, so that its derivative by u gives Jv; 0·u because it may not depend on u at all
    (forth,) = torch.autograd.grad(back + 0 * dummy, dummy, direction, create_graph=True)
    return forth - back


def random_rotations(normals: Float[Tensor, "structures 4"]) -> Float[Tensor, "structures 3 3"]:
    """Rotation matrices, uniformly distributed if the numbers are normal: unit quaternions."""
    w, x, y, z = torch.nn.functional.normalize(normals, dim=1).unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _rotated(
    values: Float[Tensor, "rows *entry"], rotation: Float[Tensor, "rows 3 3"]
) -> Float[Tensor, "rows *entry"]:
    """Numbers stay, vectors turn, and tensors turn on both sides."""
    rotation = rotation.to(values.dtype)
    if values.dim() == 1:
        return values
    if values.dim() == 2:
        return (rotation @ values[:, :, None])[:, :, 0]
    return rotation @ values @ rotation.mT


def _net_torque(
    arms: Float[Tensor, "atoms 3"], forces: Float[Tensor, "atoms 3"], batch: Batch
) -> Float[Tensor, "structures 3"]:
    structure = structure_of_atom(batch, arms.shape[0])
    return sum_over_atoms(torch.linalg.cross(arms, forces), structure, num_structures(batch))


def _check_vector(prop: Property) -> None:
    if prop.rows != "atom" or tuple(prop.shape) != (3,):
        raise ValueError(
            f"The curl is that of forces, one vector an atom; '{prop.name}' has one row a {prop.rows} of "
            f"shape {tuple(prop.shape)}."
        )


def _per_length(unit: str) -> str:
    return unit.replace("/Å", "/Å²") if unit.endswith("/Å") else unit and f"{unit}/Å"

"""Energy, forces and stress of one potential energy surface."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pesloss.losses.batch import Batch, Predictions, num_rows, num_structures, structure_of_atom
from pesloss.losses.derived import Derived
from pesloss.losses.pairs import atoms_of_pairs
from pesloss.models.geometry import deform, volume
from pesloss.names import unknown

Variables: TypeAlias = dict[str, Tensor]

SECOND = ("hessian", "hessian_product")
DERIVATIVES = ("forces", "stress", "virial", *SECOND)
"""What the energy's derivatives give."""


class Network(nn.Module, ABC):
    """A map from atoms to the properties of their structures, differentiable in positions and cell.

    ``properties`` names what ``forward`` can compute, ``cutoff`` is the reach of its edges in Å. It reads
    `positions`, `numbers`, `cell`, `ptr`, `batch`, `edge_index` and `edge_shift` of a batch and nothing else.
    ``allows_bfloat16`` promises that distances and sums over atoms keep their precision under
    ``torch.autocast``.
    """

    properties: tuple[str, ...]
    cutoff: float
    allows_bfloat16: bool = False

    @abstractmethod
    def forward(self, batch: Batch, properties: Collection[str] | None = None) -> dict[str, Tensor]:
        """The properties asked for, all of them by default."""

    def set_scale(self, energy_scale: float) -> None:
        """Told once, before training, the unit of atomic energies in the data, in eV; may be ignored."""


class Potential(nn.Module):
    """Forces and stress are derivatives of one energy, so they are conservative.

    ``forces = −∂E/∂R``, ``stress = (1/V) ∂E/∂ε``, ``virial = −∂E/∂ε`` with a symmetric strain ε.
    All derivatives asked for come from one call of autograd; if none is asked for, there is no call.
    A structure without a volume has zero stress; its virial is finite.
    ``torch.compile(potential, dynamic=True, fullgraph=True)`` compiles all of it, and losses of the compiled
    forces have gradients by the parameters. Second derivatives are not compiled: ``hessian`` =
    ∂²E/∂R_i∂R_j by blocks of every pair of atoms of a structure takes as many derivatives of the forces as
    the largest structure has components, together; ``hessian_product`` = Σ_j ∂²E/∂R_i∂R_j v_j takes one for
    each ``hessian_direction [N, 3]`` (or ``[N, 3, directions]``) v of the batch.

    Args:
        network: predicts at least the energy of each structure in eV.
        derived: properties that follow from what the network predicts, such as the dipole of its charges,
            by name; not those that it predicts itself.

    Raises:
        TypeError: if the network does not name an energy among its properties.
    """

    def __init__(self, network: nn.Module, derived: Mapping[str, Derived] | None = None) -> None:
        super().__init__()
        self.network = network
        self.network_properties: tuple[str, ...] = tuple(getattr(network, "properties", ()))
        if "energy" not in self.network_properties:
            raise TypeError(
                "Potential needs a network with 'energy' among its `properties`, such as PaiNN; "
                f"{type(network).__name__} has {list(self.network_properties)}."
            )
        self.derived = nn.ModuleDict(derived)

    @property
    def properties(self) -> tuple[str, ...]:
        """Names of everything that can be asked for."""
        return (*self.network_properties, *DERIVATIVES, *self.derived)

    def forward(
        self, batch: Batch, properties: Collection[str], *, training: bool | None = None
    ) -> Predictions:
        """Predict exactly these properties.

        Args:
            batch: structures, in the dtype of the network.
            properties: names of what to predict.
            training: whether losses of the predictions can be differentiated, or predictions are detached;
                by default they can in training mode, unless gradients are switched off outside.

        Raises:
            ValueError: if a property is not among those that can be predicted.
            KeyError: if a product with the Hessian is asked for and the batch has no direction.
            RuntimeError: if a derivative is asked for in inference mode, or a second one of a compiled model.
        """
        self._check(properties)
        if training is None:
            training = self.training and torch.is_grad_enabled()
        needed = self.needed(properties)
        derivatives = [name for name in DERIVATIVES if name in needed]
        with torch.set_grad_enabled(training or bool(derivatives)):
            predictions = self._predict(batch, needed, derivatives, training)
            for name in properties:
                if name in self.derived:
                    predictions[name] = self.derived[name](predictions, batch)
        return {name: predictions[name] if training else predictions[name].detach() for name in properties}

    def needed(self, properties: Collection[str]) -> list[str]:
        """What these are, or are derived from."""
        needed: list[str] = []
        for name in properties:
            parts = self.derived[name].required if name in self.derived else (name,)
            needed += [part for part in parts if part not in needed]  # pyright: ignore[reportGeneralTypeIssues]
        return needed

    def _check(self, properties: Collection[str]) -> None:
        for name in properties:
            if name not in self.properties:
                raise ValueError(unknown("property", name, self.properties))

    def _predict(
        self, batch: Batch, properties: Collection[str], derivatives: Collection[str], create_graph: bool
    ) -> dict[str, Tensor]:
        if not derivatives:
            return dict(self.network(batch, properties))
        wanted = [name for name in self.network_properties if name in properties or name == "energy"]
        second = [name for name in SECOND if name in derivatives]
        energy = partial(self._energy, batch, wanted)
        variables = _leaves(variables_of(batch, derivatives), second)
        gradients, outputs = _gradient(energy, variables, create_graph or bool(second))
        found = {**outputs, **derivatives_of(gradients, batch["cell"])}
        for name in second:
            derivative = _hessian if name == "hessian" else _hessian_product
            found[name] = derivative(gradients["positions"], variables["positions"], batch, create_graph)
        return {name: found[name] for name in properties}

    def _energy(
        self, batch: Batch, wanted: Collection[str], variables: Variables
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Energy of all structures together, and what else the network says of them."""
        outputs = self.network(moved(batch, variables), wanted)
        return outputs["energy"].sum(), outputs


def variables_of(batch: Batch, derivatives: Collection[str]) -> Variables:
    """What the energy is to be differentiated by: positions for forces, a strain for stress and virial."""
    variables: Variables = {}
    if {"forces", *SECOND} & set(derivatives):
        variables["positions"] = batch["positions"]
    if "stress" in derivatives or "virial" in derivatives:
        variables["strain"] = batch["cell"].new_zeros(num_structures(batch), 3, 3)
    return variables


def _leaves(variables: Variables, second: Collection[str]) -> Variables:
    """The same, ready to be differentiated by."""
    if torch.compiler.is_compiling():
        if second:
            raise RuntimeError(f"A compiled Potential has no second derivatives, asked for {list(second)}.")
        return variables
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Forces and stress are gradients, which torch.inference_mode() forbids: use torch.no_grad()."
        )
    # a caller's own leaf stays one, so that the caller can differentiate once more
    return {k: v if v.requires_grad else v.detach().requires_grad_() for k, v in variables.items()}


def moved(batch: Batch, variables: Variables) -> Batch:
    """The structures where the variables put them."""
    batch = {**batch, "positions": variables.get("positions", batch["positions"])}
    return deform(batch, variables["strain"]) if "strain" in variables else batch


def _gradient(
    function: Callable[[Variables], tuple[Tensor, dict[str, Tensor]]],
    variables: Variables,
    create_graph: bool,
) -> tuple[Variables, dict[str, Tensor]]:
    """Gradient of a function by its variables, and what else the function returns."""
    if torch.compiler.is_compiling():
        # a compiled graph can be differentiated only once: forces have to be a function inside its forward
        return torch.func.grad(function, has_aux=True)(variables)
    value, outputs = function(variables)
    gradients = torch.autograd.grad(
        value, list(variables.values()), create_graph=create_graph, materialize_grads=True
    )
    return dict(zip(variables, gradients, strict=True)), outputs


def derivatives_of(gradients: Variables, cell: Float[Tensor, "structures 3 3"]) -> dict[str, Tensor]:
    """Forces, virial and stress from the gradient of the energy."""
    found: dict[str, Tensor] = {}
    if "positions" in gradients:
        found["forces"] = -gradients["positions"]
    if "strain" in gradients:
        size = volume(cell.detach()).view(-1, 1, 1)
        found["virial"] = -gradients["strain"]
        # the inner `where` keeps 0/0 out of the gradient as well
        found["stress"] = torch.where(size > 0, gradients["strain"] / torch.where(size > 0, size, 1.0), 0.0)
    return found


def _hessian(
    gradient: Float[Tensor, "atoms 3"], positions: Float[Tensor, "atoms 3"], batch: Batch, create_graph: bool
) -> Float[Tensor, "pairs 3 3"]:
    """Blocks of every pair of atoms of a structure."""
    if not len(positions):
        return gradient[:, :, None].expand(-1, 3, 3)
    structure = structure_of_atom(batch, len(positions))
    place = torch.arange(len(positions), device=structure.device) - batch["ptr"][structure]
    # structures do not see each other: one vector for a component of the k-th atom of all of them
    chosen = nn.functional.one_hot(place).T.to(gradient.dtype)
    vectors = chosen[:, None, :, None] * torch.eye(3, dtype=gradient.dtype, device=gradient.device)[:, None]
    rows = _products(gradient, positions, vectors.flatten(0, 1), create_graph).view(vectors.shape)
    first, second = atoms_of_pairs(batch, num_rows(batch, "pair"))
    return rows[place[first], :, second]


def _hessian_product(
    gradient: Float[Tensor, "atoms 3"], positions: Float[Tensor, "atoms 3"], batch: Batch, create_graph: bool
) -> Float[Tensor, "atoms 3 *directions"]:
    """The Hessian, which is symmetric, times the directions of the batch."""
    if "hessian_direction" not in batch:
        raise KeyError(f"'hessian_product' needs 'hessian_direction' [atoms, 3]; found {sorted(batch)}.")
    direction = batch["hessian_direction"].to(gradient.dtype)
    vectors = direction.reshape(*positions.shape, math.prod(direction.shape[2:])).movedim(-1, 0)
    return _products(gradient, positions, vectors, create_graph).movedim(0, -1).reshape(direction.shape)


def _products(
    gradient: Tensor, positions: Tensor, vectors: Float[Tensor, "vectors atoms 3"], create_graph: bool
) -> Float[Tensor, "vectors atoms 3"]:
    """Derivatives of the gradient along vectors, all of them together."""
    # 0·positions because the energy of atoms without neighbours does not depend on them
    (products,) = torch.autograd.grad(
        gradient + 0 * positions,
        positions,
        vectors,
        retain_graph=True,
        create_graph=create_graph,
        is_grads_batched=True,
    )
    return products

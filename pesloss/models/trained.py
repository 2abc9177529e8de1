"""A trained potential from its checkpoint: total energies, forces and the rest of any atoms."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from pesloss import checkpoint
from pesloss.building import build
from pesloss.checkpoint import CheckpointError
from pesloss.data.neighbors import Neighbors
from pesloss.data.references import References
from pesloss.losses import TotalLoss
from pesloss.losses.batch import num_structures
from pesloss.losses.derived import Derived
from pesloss.losses.properties import PROPERTIES, Property, as_property
from pesloss.models.derived import derived_by
from pesloss.models.potential import DERIVATIVES, Network, Potential
from pesloss.names import unknown

if TYPE_CHECKING:
    from pesloss.models.calculator import PotentialCalculator

Predicted = dict[str, np.ndarray]
"""Properties of one structure by name; energies are total ones, in eV."""

NEEDED = ("config", "heads", "properties", "model", "references", "elements")
"""What a checkpoint holds besides what resuming needs."""


def load(path: str | Path, device: torch.device | str = "cpu") -> Trained:
    """A trained potential: the network of the checkpoint's config with its weights and reference energies.

    The network is made by :func:`pesloss.build`; nothing else of the file is executed.

    Args:
        path: a checkpoint, or the folder of a run, whose best one is taken.
        device: where the potential computes.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        CheckpointError: if it is not a checkpoint of a training, or its weights do not fit its network.
        BuildError: if its config describes no network, or no loss where that derives what was trained.
    """
    path = checkpoint.located(path)
    return opened(checkpoint.read(path), path, device)


def opened(content: Mapping[str, Any], path: Path, device: torch.device | str = "cpu") -> Trained:
    """The trained potential of a checkpoint that has been read, for whoever needs the rest of it too.

    Raises:
        CheckpointError: as :func:`load`.
        BuildError: as :func:`load`.
    """
    checked = _checked(content, path)
    with checkpoint.understood(path):
        return Trained(checked, device)


class Trained:
    """A trained potential and what it is made of.

    Args:
        content: of a checkpoint.
        device: where the potential computes.

    Attributes:
        potential: the model, in ``eval()``; its energies lack the references.
        references: what is added to them.
        elements: symbols of those it was trained on.
        properties: what the training asked for, by name.
        config: of the run that trained it.
        means: of the training labels, by property; empty if the checkpoint does not tell.
        fingerprint: of the data it was trained on.
    """

    def __init__(self, content: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        self.config: Mapping[str, Any] = content["config"]
        properties = map(as_property, content["properties"])
        self.properties: Mapping[str, Property] = {prop.name: prop for prop in properties}
        self.references = References(content["references"], "from the checkpoint")
        self.elements: tuple[str, ...] = tuple(content["elements"])
        self.fingerprint: str | None = content.get("data")
        self.means: Mapping[str, Tensor] = content.get("means", {})
        network = build(self.config["model"], heads=content["heads"])
        if not isinstance(network, Network):
            raise CheckpointError(
                f"The model of the checkpoint is a {type(network).__name__}, not a network."
            )
        self.potential = Potential(network, self._derived(network))
        self.potential.to(_dtype(content["model"])).load_state_dict(content["model"])
        self.potential.to(device).eval().requires_grad_(False)

    @property
    def cutoff(self) -> float:
        """Distance within which atoms are neighbours, in Å."""
        return float(self.potential.network.cutoff)  # pyright: ignore[reportArgumentType]

    @property
    def dtype(self) -> torch.dtype:
        """Floating type that the potential computes in."""
        return next(self.potential.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the potential computes."""
        return next(self.potential.parameters()).device

    def to(self, dtype: torch.dtype) -> Trained:
        """The same in another floating type."""
        other = copy.copy(self)
        other.potential = copy.deepcopy(self.potential).to(dtype)
        return other

    @overload
    def predict(self, atoms: Atoms, properties: Collection[str] | None = None) -> Predicted: ...
    @overload
    def predict(
        self, atoms: Sequence[Atoms], properties: Collection[str] | None = None
    ) -> list[Predicted]: ...
    def predict(
        self, atoms: Atoms | Sequence[Atoms], properties: Collection[str] | None = None
    ) -> Predicted | list[Predicted]:
        """Properties of a structure, or of each of several, which are computed as one batch.

        Args:
            atoms: one structure or several.
            properties: names of what to predict; what the training asked for by default.

        Returns:
            For each structure the properties by name, in eV, Å and e; energies with their references.

        Raises:
            ValueError: if the potential does not predict a property, or was not trained on an element.
        """
        if isinstance(atoms, Atoms):
            return self.predict([atoms], properties)[0]
        names = list(self.properties if properties is None else properties)
        self.check(names)
        self._check_elements(atoms)
        batch = self.batch(atoms)
        reference = self.references(batch["numbers"], batch["batch"], num_structures(batch))
        predictions = self.potential({k: tensor.to(self.device) for k, tensor in batch.items()}, names)
        found = {name: value.cpu() for name, value in predictions.items()}
        if "energy" in found:
            found["energy"] = found["energy"].double() + reference
        counts = batch["ptr"].diff().tolist()
        rows = {
            name: value.split(counts) if self._of_atoms(name) else value.unbind()
            for name, value in found.items()
        }
        return [{name: row[i].numpy() for name, row in rows.items()} for i in range(len(atoms))]

    def loss(self) -> TotalLoss:
        """What the training minimised, with the weights it began with.

        Raises:
            BuildError: if the config describes nothing that may be built.
            CheckpointError: if it describes no loss.
        """
        return loss_of(self.config)

    def source(self) -> Any:
        """The data of the training, to be loaded; where packed structures are kept, no checkpoint decides.

        Raises:
            CheckpointError: if the checkpoint does not tell them.
        """
        node = self.config.get("data")
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise CheckpointError(
                "The checkpoint does not tell the data of its training; give data=files ..."
            )
        source = build({**node, "cache": "auto" if node.get("cache", "auto") else None})
        if not hasattr(source, "load"):
            raise CheckpointError(f"The data of the checkpoint are a {type(source).__name__}, no structures.")
        return source

    def calculator(self, dtype: torch.dtype | None = None) -> PotentialCalculator:
        """An ASE calculator, for relaxation and molecular dynamics.

        Args:
            dtype: of the computation, in which the potential was trained by default.
        """
        from pesloss.models.calculator import PotentialCalculator

        return PotentialCalculator(self if dtype is None else self.to(dtype))

    def check(self, names: Collection[str]) -> None:
        """All of these can be predicted.

        Raises:
            ValueError: for one that cannot.
        """
        for name in names:
            if name not in self.potential.properties:
                raise ValueError(unknown("property of this potential", name, self.potential.properties))

    def batch(self, atoms: Sequence[Atoms]) -> dict[str, Tensor]:
        """Structures with their neighbours, as the potential reads them, on the host."""
        neighbors = Neighbors(self.cutoff)
        counts = torch.tensor([len(one) for one in atoms])
        ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        found = [neighbors(one.positions, one.cell.array, one.pbc) for one in atoms]
        pairs = [torch.from_numpy(pair).long() + first for (pair, _), first in zip(found, ptr, strict=False)]
        return {
            "ptr": ptr,
            "batch": torch.repeat_interleave(counts),
            "numbers": torch.from_numpy(np.concatenate([one.numbers for one in atoms])).long(),
            "positions": _floats([one.positions for one in atoms], self.dtype),
            "cell": _floats([one.cell.array[None] for one in atoms], self.dtype),
            "edge_index": torch.cat(pairs, dim=1),
            "edge_shift": _floats([shift for _, shift in found], self.dtype),
        }

    def _check_elements(self, atoms: Sequence[Atoms]) -> None:
        unknown = {symbol for one in atoms for symbol in one.symbols} - {*self.elements}
        if unknown:
            raise ValueError(
                f"The potential was not trained on {', '.join(sorted(unknown))}; "
                f"it knows {', '.join(self.elements)}."
            )

    def _derived(self, network: Network) -> Mapping[str, Derived]:
        """What the training asked for and neither the network nor its energy says: the loss knows how."""
        known = {*network.properties, *DERIVATIVES}
        return {} if known >= {*self.properties} else derived_by(self.loss(), network)

    def _of_atoms(self, name: str) -> bool:
        return {**PROPERTIES, **self.properties}[name].rows == "atom"


def loss_of(config: Mapping[str, Any]) -> TotalLoss:
    """The loss that the config of a checkpoint describes.

    Raises:
        BuildError: if it describes nothing that may be built.
        CheckpointError: if it describes no loss.
    """
    loss = build(config.get("loss"))
    if not isinstance(loss, TotalLoss):
        raise CheckpointError(f"The loss of the checkpoint is a {type(loss).__name__}, no loss of pesloss.")
    return loss


def _checked(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    if missing := [name for name in NEEDED if name not in content]:
        raise CheckpointError(f"{path} is not a checkpoint of a training: it lacks {', '.join(missing)}.")
    return content


def _dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    dtypes = [tensor.dtype for tensor in state.values() if tensor.is_floating_point()]
    if not dtypes:
        raise CheckpointError("The model of the checkpoint has no weights.")
    return dtypes[0]


def _floats(arrays: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays)).to(dtype)

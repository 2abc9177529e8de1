"""The contract accepts what is right, and names the law that a broken model breaks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pesloss.losses.batch import sum_over_atoms
from pesloss.models.contract import ContractError, check_potential
from pesloss.models.geometry import edge_vectors, volume
from pesloss.models.potential import Network, Potential
from tests.structures import structures, to_batch

ALL = ("energy", "forces", "stress", "virial")


class Pairs(Network):
    """A smooth pair potential of learnable depth."""

    properties = ("energy",)

    def __init__(self):
        super().__init__()
        self.depth = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, batch, properties=None):
        distance = edge_vectors(batch).norm(dim=1)
        pairs = self.depth * (distance.clamp(max=3.5) - 3.5) ** 4
        structure = batch["batch"][batch["edge_index"][0]]
        return {"energy": sum_over_atoms(pairs, structure, batch["ptr"].shape[0] - 1)}


def check(change=None, properties=ALL, **options):
    """Check the pair potential after `change(predictions, batch)`."""
    potential = Potential(Pairs())

    def predict(batch, names):
        predictions = dict(potential(batch, names))
        return predictions if change is None else {**predictions, **change(predictions, batch)}

    check_potential(predict, structures(), to_batch, properties, parameters=potential.parameters(), **options)


def total(values, batch):
    return sum_over_atoms(values, batch["batch"], batch["ptr"].shape[0] - 1)


def centred(batch):
    counts = batch["ptr"].diff()[:, None]
    return batch["positions"] - (total(batch["positions"], batch) / counts)[batch["batch"]]


def volumes(batch):
    return volume(batch["cell"])[:, None, None]


BROKEN = {
    "forces = −∂E/∂R: forces": lambda p, b: {"forces": -p["forces"]} if "forces" in p else {},
    "V · stress = ∂E/∂ε: stress": lambda p, b: {"stress": -p["stress"]} if "stress" in p else {},
    "virial = −∂E/∂ε: virial": lambda p, b: {"virial": -p["virial"]} if "virial" in p else {},
    "extensivity: energy": lambda p, b: {"energy": p["energy"] / b["ptr"].diff()},
    "independence: energy": lambda p, b: {"energy": p["energy"] + 0.01 * p["energy"].mean()},
    "translation: energy": lambda p, b: {"energy": p["energy"] + 0.01 * total(b["positions"][:, 0], b)},
    "rotation: energy": lambda p, b: {"energy": p["energy"] + 0.01 * total(centred(b)[:, 0] ** 2, b)},
    "translation by a lattice vector: energy": lambda p, b: {
        "energy": p["energy"] + 0.01 * total(centred(b).square().sum(1), b)
    },
    "permutation: energy": lambda p, b: {"energy": p["energy"] + 0.01 * b["numbers"][b["ptr"][:-1]]},
    "rotation: forces": lambda p, b: {"forces": p["forces"].abs()} if "forces" in p else {},
    "lone atom: forces": lambda p, b: (
        {"forces": p["forces"] + (b["ptr"].diff() == 1)[b["batch"]][:, None]} if "forces" in p else {}
    ),
    "lone atom: energy of Cu is not finite": lambda p, b: {
        "energy": torch.where(
            (b["ptr"].diff() == 1) & (b["numbers"][b["ptr"][:-1]] == 29), torch.nan, p["energy"]
        )
    },
    "gradients: forces is cut off": lambda p, b: {"forces": p["forces"].detach()} if "forces" in p else {},
    "gradients: a loss of energy has 1 gradients": lambda p, b: {
        "energy": p["energy"] + (0 * p["energy"]).sqrt()
    },
    "answers: energy has 4 numbers that are not finite": lambda p, b: {"energy": p["energy"] / 0},
    "answers: energy has shape \\(4, 1\\), expected \\(4,\\)": lambda p, b: {"energy": p["energy"][:, None]},
}


def test_right_model_passes():
    check()


@pytest.mark.parametrize("law", BROKEN)
def test_broken_model_fails_by_name(law):
    with pytest.raises(ContractError, match=law):
        check(BROKEN[law])


def test_stress_needs_its_volume():
    with pytest.raises(ContractError, match="V · stress = ∂E/∂ε: stress of ClNa"):
        check(lambda p, b: {"stress": p["stress"] * volumes(b)} if "stress" in p else {})


def test_message_has_the_size_of_the_violation():
    with pytest.raises(ContractError, match=r"independence: energy of C2H6O is off by 0\.25, allowed"):
        check(lambda p, b: {"energy": p["energy"] + 0.25 * (len(p["energy"]) > 1)}, properties=("energy",))


def test_every_broken_law_is_reported():
    with pytest.raises(ContractError, match=r"(?s)forces = −∂E/∂R.*V · stress"):
        check(lambda p, b: {name: -p[name] for name in ("forces", "stress") if name in p})


def test_missing_answer_is_reported():
    with pytest.raises(ContractError, match="answers: 'forces' was asked for and is not among"):
        check_potential(lambda batch, names: Pairs()(batch), structures(), to_batch)


def test_tolerance_is_that_of_the_user():
    check(
        lambda p, b: {"forces": p["forces"] + 1e-4} if "forces" in p else {},
        properties=("forces",),
        tolerance=1e-2,
    )


def test_lower_precision_is_refused():
    with pytest.raises(ValueError, match=r"torch\.float64, got torch\.float32"):
        check_potential(Potential(Pairs()), structures(), lambda s: to_batch(s, dtype=torch.float32))


def test_no_structures_are_refused():
    with pytest.raises(ValueError, match="at least one structure"):
        check_potential(Potential(Pairs()), [], to_batch)


def test_unknown_property_is_refused():
    with pytest.raises(KeyError, match="did you mean 'forces'"):
        check_potential(Potential(Pairs()), structures(), to_batch, ("force",))

"""Reference energies count atoms, in float64, whatever happens to the model around them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.data import atomic_numbers
from ase.symbols import string2symbols
from torch import nn

from pesloss.data import Packed, References, Structure, pack, read, references
from pesloss.losses.properties import as_properties

ENERGY = as_properties(["energy"])

SHARED = Path(__file__).parents[2] / "shared" / "data"
TRUE = {"H": -13.6, "C": -1029.5, "O": -2041.8}


def numbers(formula: str) -> np.ndarray:
    return np.array([atomic_numbers[symbol] for symbol in string2symbols(formula)])


def energies(*formulas: str) -> np.ndarray:
    return np.array([sum(TRUE[symbol] for symbol in string2symbols(formula)) for formula in formulas])


def structure(
    formula: str, energy: float | None = None, periodic: bool = False, config_type: str = ""
) -> Structure:
    z = numbers(formula)
    return Structure(
        numbers=z,
        positions=np.arange(len(z))[:, None] * np.ones(3),
        cell=9 * np.eye(3),
        pbc=np.array([periodic] * 3),
        labels={} if energy is None else {"energy": np.array(energy)},
        weights={},
        fixed=np.zeros(len(z), dtype=bool),
        config_type=config_type,
        file=formula,
    )


def packed(structures: list[Structure]) -> Packed:
    return pack(structures, ENERGY, 2.0)


def chunk(formulas: Sequence[str], labels: np.ndarray) -> dict[str, torch.Tensor]:
    """Some structures, as a set gives its labels."""
    atoms = [torch.from_numpy(numbers(formula)) for formula in formulas]
    counts = torch.tensor([0, *map(len, atoms)])
    return {
        "ptr": counts.cumsum(0),
        "batch": torch.arange(len(atoms)).repeat_interleave(counts[1:]),
        "numbers": torch.cat(atoms),
        "energy": torch.from_numpy(labels),
    }


def fit(*formulas: str) -> References:
    return References.fit([chunk(formulas, energies(*formulas))])


def total(found: References, *formulas: str) -> np.ndarray:
    atoms = [torch.from_numpy(numbers(f)) for f in formulas]
    owner = torch.cat([torch.full_like(z, s) for s, z in enumerate(atoms)])
    return found(torch.cat(atoms), owner, len(formulas)).numpy()


def test_references_add_up_over_atoms():
    found = References(TRUE)
    np.testing.assert_allclose(total(found, "H2O", "CH4", "CO2"), energies("H2O", "CH4", "CO2"), rtol=1e-15)
    assert found.as_dict() == TRUE
    assert References({1: -13.6, 6: -1029.5, 8: -2041.8}).as_dict() == TRUE


def test_a_structure_without_atoms_has_no_reference():
    empty = torch.empty(0, dtype=torch.int64)
    assert References(TRUE)(empty, empty, 2).tolist() == [0.0, 0.0]


def test_a_cast_of_the_model_leaves_them_exact():
    model = nn.Sequential(nn.Linear(2, 2), References({"Ba": -100941.53172529273 / 3}))
    for cast in (model.to(torch.float32), model.half(), copy.deepcopy(model).float()):
        assert cast[1].energies.dtype == torch.float64
        assert cast[1].as_dict() == {"Ba": -100941.53172529273 / 3}


def test_they_are_saved_with_the_model():
    model = References.none()
    model.load_state_dict(References(TRUE).state_dict())
    assert model.as_dict() == TRUE
    assert list(References(TRUE).state_dict()) == ["energies"]
    assert not list(model.parameters())


def test_an_element_without_reference_is_named():
    with pytest.raises(ValueError, match="No reference energy for N, Cu; there is one for H, C, O"):
        total(References(TRUE), "CuN", "H2O")
    assert total(References.none(), "CuN").tolist() == [0.0]


@pytest.mark.parametrize("element", ["Hx", 300, -1])
def test_an_element_that_does_not_exist(element):
    with pytest.raises(KeyError, match=f"Unknown element {element!r}"):
        References({element: 1.0})


def test_a_reference_is_finite():
    with pytest.raises(ValueError, match="reference energy of H must be finite"):
        References({"H": float("nan")})


# ---- least squares ----


def test_a_fit_finds_what_energies_are_made_of():
    found = fit("H2O", "CH4", "CO2", "CO")
    for symbol, energy in TRUE.items():
        assert found.as_dict()[symbol] == pytest.approx(energy, abs=1e-9)
    assert found.note == "fit to 4 structures; all 3 elements determined"


def test_a_fit_leaves_out_structures_without_energy():
    formulas = ("H2O", "CH4", "CO2", "CO", "N2")
    label = np.append(energies(*formulas[:4]), np.nan)
    found = References.fit([chunk(formulas, label)])
    assert set(found.as_dict()) == {*TRUE, "N"} and found.as_dict()["N"] == 0
    assert "4 structures" in found.note


def test_an_element_that_no_energy_tells_of_has_none():
    structures = [structure("H2", -27.2), structure("CH4", None)]
    fitted = References.fit(pack(structures, ENERGY, 3.0).chunks())
    assert fitted.as_dict() == pytest.approx({"H": -13.6, "C": 0.0})
    assert fitted.note.endswith("0 for C, of which no structure has an energy")


def test_a_fit_is_the_least_squares_solution():
    formulas = ["H2O", "CH4", "CO2", "CO", "C2H6", "H2"]
    noisy = energies(*formulas) + np.random.default_rng(0).normal(size=len(formulas))
    found = References.fit([chunk(formulas, noisy)])
    counts = np.array([[string2symbols(f).count(symbol) for symbol in TRUE] for f in formulas])
    np.testing.assert_allclose(counts.T @ (total(found, *formulas) - noisy), 0.0, atol=1e-8)


@pytest.mark.parametrize(
    ("formulas", "words"),
    [
        (["H2O"], "rank 1 of 2 elements, least norm taken: H and O always occur as 2:1"),
        (["H2O", "H4O2"], "H and O always occur as 2:1"),
        (
            ["C5H8O2"],
            "rank 1 of 3 elements, least norm taken: H and C always occur as 8:5; H and O always occur",
        ),
        (["H2O", "CH4"], "rank 2 of 3 elements, least norm taken: always 4 n(C) + 2 n(O) = n(H)"),
        (["H2O", "H2OCH4", "C2H8"], "always 4 n(C) + 2 n(O) = n(H)"),
        (["COH2", "CO2H4"], "rank 2 of 3 elements, least norm taken: H and O always occur as 2:1"),
    ],
)
def test_what_compositions_leave_open_is_said_and_energies_are_right_anyway(formulas, words):
    found = fit(*formulas)
    assert words in found.note
    np.testing.assert_allclose(total(found, *formulas), energies(*formulas), rtol=1e-12)


def test_the_least_norm_is_taken():
    found = fit("H2O").as_dict()
    assert found["H"] == pytest.approx(2 * found["O"])


def test_a_fit_needs_an_energy():
    with pytest.raises(ValueError, match="none of 1 structures has an energy"):
        References.fit([chunk(["H2"], np.array([np.nan]))])


@pytest.mark.parametrize(
    "formulas", [["H2O", "CH4", "CO2", "CO", "C2H6", "H2"], ["H2O"] * 5, ["COH2", "CO2H4"]]
)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_fit_to_chunks_is_the_fit_to_the_whole(formulas, size):
    noisy = energies(*formulas) + np.random.default_rng(0).normal(size=len(formulas))
    chunks = [chunk(formulas[i : i + size], noisy[i : i + size]) for i in range(0, len(formulas), size)]
    bare = {name: tensor for name, tensor in chunk(["H2"], np.zeros(1)).items() if name != "energy"}
    whole, parts = References.fit([chunk(formulas, noisy)]), References.fit([bare, *chunks, bare])
    assert parts.note == whole.note
    np.testing.assert_allclose(list(parts.as_dict().values()), list(whole.as_dict().values()), rtol=1e-12)


def test_a_fit_of_many_elements_is_exact():
    """Energies of −10⁵ eV, elements from abundant to one structure in a thousand."""
    random, true = np.random.default_rng(0), -1e5 * np.random.default_rng(1).uniform(size=41)
    chunks = []
    for _ in range(3):
        z = 1 + np.minimum(random.geometric(0.15, (1000, 8)), 39)
        offsets = torch.arange(1001) * 8
        labels = torch.from_numpy(true[z].sum(1))
        owner = torch.arange(1000).repeat_interleave(8)
        chunks.append(
            {"ptr": offsets, "batch": owner, "numbers": torch.from_numpy(z.ravel()), "energy": labels}
        )
    found = References.fit(chunks)
    elements = sorted({int(z) for c in chunks for z in c["numbers"].unique()})
    np.testing.assert_allclose(found.energies[elements].numpy(), true[elements], atol=1e-7)


# ---- isolated atoms ----


def test_isolated_atoms_are_found_among_structures():
    structures = [
        structure("H", -13.6),
        structure("O", -2041.8, True, "Isolated_Atom"),
        structure("H2O", -2070.0),
    ]
    expected = {"H": -13.6, "O": -2041.8}
    assert references("isolated_atoms", packed(structures)).as_dict() == expected
    assert references("isolated_atoms", packed(structures[2:]), packed(structures[:2])).as_dict() == expected


def test_a_crystal_of_one_atom_is_not_isolated():
    with pytest.raises(ValueError, match="No isolated atom with an energy for O; found H"):
        references("isolated_atoms", packed([structure("H", -13.6), structure("O", -2041.8, periodic=True)]))


def test_an_isolated_atom_needs_an_energy():
    with pytest.raises(ValueError, match="No isolated atom with an energy for H; found no element"):
        references("isolated_atoms", packed([structure("H")]))


def test_isolated_atoms_agree():
    atoms = packed([structure("H", -13.6), structure("H", -13.0)])
    with pytest.raises(
        ValueError, match=r"H, structure 0: isolated atom H has -13.0 eV, another one has -13.6"
    ):
        references("isolated_atoms", atoms)


# ---- as a config asks ----


def test_every_spelling_of_a_config():
    structures = packed([structure("H2O", -2069.0), structure("H2", -27.2)])
    assert references("none", structures).as_dict()["O"] == 0.0
    assert references({"H": -1.0, "O": -2.0}, structures).as_dict() == {"H": -1.0, "O": -2.0}
    assert references("fit", structures).as_dict() == pytest.approx({"H": -13.6, "O": -2041.8})
    given = References(TRUE)
    assert references(given, structures) is given


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(
        ValueError, match=r"Unknown references 'isolated'; did you mean 'isolated_atoms'.*by element"
    ):
        references("isolated", packed([]))


def test_references_of_acetylacetone():
    path = SHARED / "acac" / "isolated_atoms.xyz"
    if not path.exists():
        pytest.skip("reference data acac are not here")
    found = references("isolated_atoms", packed(read(path, ENERGY)))
    assert found.as_dict()["H"] == -13.568422178253735

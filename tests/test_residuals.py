"""Law 7: what is compared, in which order, and with which shear."""

import math

import numpy as np
import pytest
import torch

from pesloss.losses import PROPERTIES, Difference, PerAtom, PropertyTerm, Voigt
from tests import references
from tests.batches import USER, make
from tests.parts import RESIDUALS


@pytest.mark.parametrize("name", RESIDUALS)
def test_equals_numpy(name):
    batch = make(missing=False)
    found = RESIDUALS[name]()(batch["x::virial"], batch["virial"], batch).numpy()
    sizes = np.diff(batch["ptr"].numpy())
    expected = references.RESIDUALS[name](batch["x::virial"].numpy(), batch["virial"].numpy(), sizes)
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", RESIDUALS)
def test_shape_is_the_announced_one(name):
    batch = make(missing=False)
    residual = RESIDUALS[name]()
    shape = residual.entry_shape(PROPERTIES["virial"])
    assert residual(batch["x::virial"], batch["virial"], batch).shape == (8, *shape)
    assert residual.labelled(batch["virial"]).shape == (8, *shape)


@pytest.mark.parametrize("name", RESIDUALS)
def test_a_perfect_prediction_has_none(name):
    batch = make(missing=False)
    assert not RESIDUALS[name]()(batch["virial"], batch["virial"], batch).any()


def test_voigt_order_is_xx_yy_zz_yz_xz_xy():
    tensor = torch.tensor([[[0.0, 5, 4], [5, 1, 3], [4, 3, 2]]])
    assert Voigt()(tensor, torch.zeros_like(tensor), {}).tolist() == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(("shear", "factor"), [("entries", 1), ("doubled", 2), ("mandel", math.sqrt(2))])
def test_shear_conventions(shear, factor):
    tensor = torch.ones(1, 3, 3, dtype=torch.float64)
    found = Voigt(shear)(tensor, torch.zeros_like(tensor), {})
    assert found.tolist() == [[1, 1, 1, factor, factor, factor]]


def test_mandel_keeps_the_norm_of_a_symmetric_tensor():
    tensor = torch.randn(5, 3, 3, dtype=torch.float64)
    tensor = tensor + tensor.mT
    squared = Voigt("mandel")(tensor, torch.zeros_like(tensor), {}).square().sum(1)
    torch.testing.assert_close(squared, tensor.square().sum((1, 2)))


def test_voigt_reads_both_triangles_alike():
    prediction = torch.randn(4, 3, 3, dtype=torch.float64)
    zeros = torch.zeros_like(prediction)
    assert torch.equal(Voigt()(prediction, zeros, {}), Voigt()(prediction.mT, zeros, {}))


@pytest.mark.parametrize("name", [name for name, prop in PROPERTIES.items() if prop.shape != (3, 3)])
def test_voigt_needs_a_tensor(name):
    with pytest.raises(ValueError, match=r"'voigt' needs \(3, 3\)"):
        PropertyTerm(name, residual="voigt")


@pytest.mark.parametrize("name", [name for name, prop in PROPERTIES.items() if not prop.extensive])
def test_only_what_grows_with_the_atoms_is_divided_by_them(name):
    with pytest.raises(ValueError, match=f"'{name}' .* cannot be divided by the number of atoms"):
        PropertyTerm(name, residual="per_atom")


def test_per_atom_of_a_structure_repeated_is_the_same():
    small, large = make([2], missing=False), make([6], missing=False)
    large["energy"], large["x::energy"] = 3 * small["energy"], 3 * small["x::energy"]
    found = [PerAtom()(batch["x::energy"], batch["energy"], batch) for batch in (small, large)]
    torch.testing.assert_close(*found)


def test_a_property_of_ones_own_is_like_the_others():
    batch = make(missing=False)
    assert PerAtom().entry_shape(USER) == Difference().entry_shape(USER) == (2,)
    torch.testing.assert_close(
        PerAtom()(batch["x::mtt::etot"], batch["mtt::etot"], batch)[4],
        (batch["x::mtt::etot"] - batch["mtt::etot"])[4] / 7,
    )


def test_an_unknown_convention_gets_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'doubled'"):
        Voigt("double")

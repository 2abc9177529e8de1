"""Law 7: what is compared, in which order, and with which shear."""

import copy
import math
import pickle
import re

import numpy as np
import pytest
import torch
from torch.func import vmap

from pesloss.losses import (
    PROPERTIES,
    Cumulative,
    Difference,
    Direction,
    Huber,
    Magnitude,
    ModuloQuantum,
    PerAtom,
    Property,
    PropertyTerm,
    Relative,
    Scaled,
    Standardized,
    TotalLoss,
    Trace,
    Voigt,
)
from tests import references
from tests.batches import MISSING, USER, make, take
from tests.laws import EXACT, HostSynchronisations
from tests.parts import RESIDUAL_OF, RESIDUALS

DOS = Property("dos", shape=(11,))
TENSORS = [name for name in RESIDUALS if RESIDUAL_OF[name] == "virial"]
EVEN_IN_SIGN = ("magnitude", "magnitude_vector", "magnitude_label")


def batch_of(**options):
    """A batch with structures that are periodic in some directions."""
    batch = make(**options)
    batch["pbc"] = torch.arange(3 * (len(batch["ptr"]) - 1)).reshape(-1, 3) % 5 > 0
    batch["polarization"] *= 20  # over many branches
    return batch


def compared(name, batch, prediction=None):
    """Residual of an example for a property it makes sense for."""
    prop = RESIDUAL_OF[name]
    prediction = batch[f"x::{prop}"] if prediction is None else prediction
    return RESIDUALS[name]()(prediction, batch[prop], batch)


@pytest.mark.parametrize("name", RESIDUALS)
def test_equals_numpy(name):
    batch, prop = batch_of(missing=False), RESIDUAL_OF[name]
    numbers = {key: value.numpy() for key, value in batch.items()}
    expected = references.RESIDUALS[name](numbers[f"x::{prop}"], numbers[prop], numbers)
    np.testing.assert_allclose(compared(name, batch).numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", RESIDUALS)
def test_shape_is_the_announced_one(name):
    batch, prop = batch_of(missing=False), RESIDUAL_OF[name]
    residual = RESIDUALS[name]()
    shape = residual.entry_shape(PROPERTIES[prop])
    assert compared(name, batch).shape == residual.labelled(batch[prop]).shape == (len(batch[prop]), *shape)
    assert len(residual.component_names(PROPERTIES[prop])) == math.prod(shape)
    empty = take(batch, [])
    assert compared(name, empty).shape == (0, *shape)


@pytest.mark.parametrize("name", RESIDUALS)
def test_a_perfect_prediction_has_none(name):
    batch = batch_of(missing=False)
    label = batch[RESIDUAL_OF[name]]
    assert not compared(name, batch, label.abs() if name == "magnitude_label" else label).any()


@pytest.mark.parametrize("name", RESIDUALS)
def test_gradient_is_the_derivative(name):
    batch = batch_of(sizes=(2, 3), missing=False)
    prediction = batch[f"x::{RESIDUAL_OF[name]}"].requires_grad_()
    assert torch.autograd.gradcheck(lambda p: compared(name, batch, p), prediction)


@pytest.mark.parametrize("name", RESIDUALS)
def test_linear_residuals_say_so(name):
    """The gradient is the same wherever the prediction is."""
    batch = batch_of(missing=False)
    gradients = []
    for factor in (1.0, -3.0):
        prediction = (factor * batch[f"x::{RESIDUAL_OF[name]}"]).requires_grad_()
        weights = torch.arange(1.0, 1 + compared(name, batch).numel()).double()
        gradients += torch.autograd.grad(compared(name, batch, prediction).flatten() @ weights, prediction)
    assert torch.allclose(*gradients, **EXACT) == RESIDUALS[name]().linear


@pytest.mark.parametrize("name", RESIDUALS)
def test_a_missing_number_is_missing_where_it_is_needed(name):
    """What is known is changed by no missing number, and a row that is not known by some."""
    batch = batch_of()
    prop, residual = RESIDUAL_OF[name], RESIDUALS[name]()
    label, known = batch[prop], residual.labelled(batch[prop])
    assert known.any() and not known.all()
    ones, twos = (torch.where(label.isnan(), fill, label) for fill in (1.0, 2.0))
    if not residual.scaled_by_label:
        found = [residual(batch[f"x::{prop}"], each, batch) for each in (ones, twos)]
        same = found[0] == found[1]
        assert bool(same[known].all())
        assert torch.equal(same.reshape(len(same), -1).all(1), known.reshape(len(known), -1).all(1))
    assert torch.equal(residual.labelled(ones), torch.ones_like(known))


@pytest.mark.parametrize("name", RESIDUALS)
def test_a_label_that_is_there_gives_a_number(name):
    """Whatever is missing elsewhere, and with a gradient that is a number too."""
    batch = batch_of()
    prop, residual = RESIDUAL_OF[name], RESIDUALS[name]()
    label, known = batch[prop], residual.labelled(batch[prop])
    label = torch.where(label.isnan(), 0, label) if residual.scaled_by_label else label
    prediction = batch[f"x::{prop}"].clone().requires_grad_()
    found = torch.where(known, residual(prediction, label, batch), 0)
    (gradient,) = torch.autograd.grad(found.square().sum(), prediction)
    assert found.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("name", RESIDUALS)
def test_a_prediction_of_zero_has_a_finite_gradient(name):
    batch = batch_of(missing=False)
    prediction = torch.zeros_like(batch[RESIDUAL_OF[name]]).requires_grad_()
    (gradient,) = torch.autograd.grad(compared(name, batch, prediction).square().sum(), prediction)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", RESIDUALS)
def test_nothing_waits_and_many_are_one_after_another(name):
    batch, prop = batch_of(), RESIDUAL_OF[name]
    prediction, residual = batch[f"x::{prop}"].clone().requires_grad_(), RESIDUALS[name]()
    with HostSynchronisations() as waiting:
        torch.where(
            residual.labelled(batch[prop]), residual(prediction, batch[prop], batch), 0
        ).sum().backward()
    assert not waiting.found
    stacked = torch.stack([prediction, 2 * prediction]).detach()
    found = vmap(lambda p: residual(p, batch[prop], batch))(stacked)
    for one, each in zip(found, stacked, strict=True):
        torch.testing.assert_close(one, residual(each, batch[prop], batch), equal_nan=True, **EXACT)


@pytest.mark.parametrize("name", RESIDUALS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_stays(name, dtype):
    batch = {k: v.to(dtype) if v.is_floating_point() and k != "cell" else v for k, v in batch_of().items()}
    assert compared(name, batch).dtype == dtype


@pytest.mark.parametrize("name", RESIDUALS)
def test_it_may_be_part_of_a_loss(name):
    """With missing labels and all weights; the value of every structure's own loss adds up."""
    batch, prop = batch_of(), RESIDUAL_OF[name]
    loss = TotalLoss({prop: PropertyTerm(prop, residual=RESIDUALS[name](), reduction="sum")})
    prediction = {prop: batch[f"x::{prop}"].clone().requires_grad_()}
    total = loss(prediction, batch)
    assert total > 0 and all(g.isfinite().all() for g in torch.autograd.grad(total, prediction[prop]))
    alone = (take({**batch, "p": prediction[prop]}, [s]) for s in range(8))
    torch.testing.assert_close(sum(loss({prop: one["p"]}, one) for one in alone), total, **EXACT)


# ---- per atom ----


@pytest.mark.parametrize("name", [name for name, prop in PROPERTIES.items() if not prop.extensive])
def test_only_what_grows_with_the_atoms_is_divided_by_them(name):
    with pytest.raises(ValueError, match=f"'{name}' .* cannot be divided by the number of atoms"):
        PropertyTerm(name, residual="per_atom")


def test_per_atom_of_a_structure_repeated_is_the_same():
    small, large = make([2], missing=False), make([6], missing=False)
    large["energy"], large["x::energy"] = 3 * small["energy"], 3 * small["x::energy"]
    found = [PerAtom()(batch["x::energy"], batch["energy"], batch) for batch in (small, large)]
    torch.testing.assert_close(*found)


def test_exponents_of_the_number_of_atoms():
    batch = make([4, 9], missing=False)
    found = [PerAtom(p)(batch["x::energy"], batch["energy"], batch) for p in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(found[0], batch["x::energy"] - batch["energy"], **EXACT)
    torch.testing.assert_close(found[1] * torch.tensor([2.0, 3.0]).double(), found[0], **EXACT)
    torch.testing.assert_close(found[2] * torch.tensor([4.0, 9.0]).double(), found[0], **EXACT)
    assert PerAtom(0.5).unit("eV") == "eV/atom^0.5"


@pytest.mark.parametrize("exponent", [math.nan, math.inf, "1", True])
def test_an_exponent_is_a_number(exponent):
    with pytest.raises((ValueError, TypeError), match="exponent"):
        PerAtom(exponent)


def test_a_property_of_ones_own_is_like_the_others():
    batch = make(missing=False)
    assert PerAtom().entry_shape(USER) == Difference().entry_shape(USER) == (2,)
    torch.testing.assert_close(
        PerAtom()(batch["x::mtt::etot"], batch["mtt::etot"], batch)[4],
        (batch["x::mtt::etot"] - batch["mtt::etot"])[4] / 7,
    )


# ---- tensors ----


def voigt_of(tensor, *options, **more):
    return Voigt(*options, **more)(tensor, torch.zeros_like(tensor), {})


def test_voigt_order_is_xx_yy_zz_yz_xz_xy():
    tensor = torch.tensor([[[0.0, 5, 4], [5, 1, 3], [4, 3, 2]]])
    assert voigt_of(tensor).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert voigt_of(tensor, order="vasp").tolist() == [[0, 1, 2, 5, 3, 4]]
    assert voigt_of(tensor, order="xx yy zz xy yz zx").tolist() == [[0, 1, 2, 5, 3, 4]]
    assert voigt_of(tensor, order="xy, xz, yz, zz, yy, xx").tolist() == [[5, 4, 3, 2, 1, 0]]


@pytest.mark.parametrize(("shear", "factor"), [("entries", 1), ("doubled", 2), ("mandel", math.sqrt(2))])
@pytest.mark.parametrize("triangle", ["mean", "upper", "lower"])
def test_shear_conventions(shear, factor, triangle):
    tensor = torch.ones(1, 3, 3, dtype=torch.float64)
    assert voigt_of(tensor, shear, triangle=triangle).tolist() == [[1, 1, 1, factor, factor, factor]]
    assert voigt_of(tensor, shear, "xy xx yz yy xz zz").tolist() == [[factor, 1, factor, 1, factor, 1]]


def test_mandel_keeps_the_norm_of_a_symmetric_tensor():
    tensor = torch.randn(5, 3, 3, dtype=torch.float64)
    tensor = tensor + tensor.mT
    squared = voigt_of(tensor, "mandel").square().sum(1)
    torch.testing.assert_close(squared, tensor.square().sum((1, 2)))


def test_voigt_reads_both_triangles_alike():
    tensor = torch.randn(4, 3, 3, dtype=torch.float64)
    assert torch.equal(voigt_of(tensor), voigt_of(tensor.mT))


@pytest.mark.parametrize("shear", ["entries", "doubled", "mandel"])
def test_triangles(shear):
    """One is the other of the transposed tensor, and their mean is what is read by default."""
    tensor = torch.randn(4, 3, 3, dtype=torch.float64)
    upper, lower = (voigt_of(tensor, shear, triangle=name) for name in ("upper", "lower"))
    assert torch.equal(lower, voigt_of(tensor.mT, shear, triangle="upper"))
    torch.testing.assert_close(voigt_of(tensor, shear), (upper + lower) / 2)


@pytest.mark.parametrize(("triangle", "known"), [("mean", False), ("upper", True), ("lower", False)])
def test_a_triangle_that_is_not_read_may_be_missing(triangle, known):
    tensor = torch.zeros(1, 3, 3)
    tensor[0, 2, 1] = MISSING
    assert Voigt(triangle=triangle).labelled(tensor).tolist() == [[True] * 3 + [known, True, True]]


@pytest.mark.parametrize("residual", ["voigt", "trace"])
@pytest.mark.parametrize("name", [name for name, prop in PROPERTIES.items() if prop.shape != (3, 3)])
def test_a_tensor_is_needed(residual, name):
    with pytest.raises(ValueError, match=rf"'{residual}' needs \(3, 3\)"):
        PropertyTerm(name, residual=residual)


def test_the_trace_is_the_same_in_every_frame():
    tensor, zeros = torch.randn(4, 3, 3, dtype=torch.float64), torch.zeros(4, 3, 3, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    torch.testing.assert_close(*(Trace()(t, zeros, {}) for t in (tensor, rotation.T @ tensor @ rotation)))


def test_the_pressure_needs_the_diagonal_alone():
    tensor = torch.full((2, 3, 3), MISSING)
    tensor[:, range(3), range(3)] = 1.0
    tensor[1, 1, 1] = MISSING
    assert Trace().labelled(tensor).tolist() == [True, False]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shear": "double"}, "did you mean 'doubled'"),
        ({"triangle": "uper"}, "did you mean 'upper'"),
        ({"order": "xx yy zz yz xz"}, "voigt must name each of xx yy zz yz xz xy once"),
        ({"order": "vsap"}, "or one of ase, vasp, got 'vsap'"),
    ],
)
def test_an_unknown_convention_gets_the_nearest(options, words):
    with pytest.raises(ValueError, match=words):
        Voigt(**options)


def test_components_have_names():
    assert Difference().component_names(PROPERTIES["forces"]) == ["x", "y", "z"]
    assert Difference().component_names(PROPERTIES["stress"])[:4] == ["xx", "xy", "xz", "yx"]
    assert " ".join(Voigt(order="vasp").component_names(PROPERTIES["stress"])) == "xx yy zz xy yz xz"
    assert " ".join(Scaled("voigt", factor=2.0).component_names(PROPERTIES["stress"])) == "xx yy zz yz xz xy"


# ---- vectors ----


def vectors(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_half_the_squared_difference_of_directions_is_one_minus_the_cosine():
    p, q = torch.randn(2, 50, 3, dtype=torch.float64)
    found = Direction()(p, q, {}).square().sum(1) / 2
    torch.testing.assert_close(found, 1 - torch.cosine_similarity(p, q, dim=1))


def test_a_direction_has_no_length():
    p, q = torch.randn(2, 50, 3, dtype=torch.float64)
    torch.testing.assert_close(Direction()(3 * p, 0.1 * q, {}), Direction()(p, q, {}))


def test_nothing_has_no_direction():
    label = vectors([0, 0, 0], [0.009, 0, 0], [0, 0.01, 0], [1, MISSING, 0])
    assert Direction(0.01).labelled(label)[:, 0].tolist() == [False, False, True, False]


@pytest.mark.parametrize("name", ["energy", "stress"])
def test_only_vectors_have_a_direction(name):
    with pytest.raises(ValueError, match=rf"'{name}' has entries of shape .*'direction' needs vectors"):
        PropertyTerm(name, residual="direction")


@pytest.mark.parametrize("epsilon", [0, -1.0, math.nan, math.inf, True])
def test_the_shortest_length_is_positive(epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        Direction(epsilon)


@pytest.mark.parametrize("name", EVEN_IN_SIGN)
def test_a_magnitude_of_the_label_has_no_sign(name):
    batch = batch_of(missing=False)
    prop = RESIDUAL_OF[name]
    turned = {**batch, prop: -batch[prop]}
    assert torch.equal(compared(name, turned), compared(name, batch))
    both = torch.equal(compared(name, batch, -batch[f"x::{prop}"]), compared(name, batch))
    assert both == (name != "magnitude_label")


def test_a_length_is_the_same_in_every_frame():
    p, q = torch.randn(2, 20, 3, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    torch.testing.assert_close(Magnitude()(p @ rotation, q, {}), Magnitude()(p, q @ rotation, {}))


@pytest.mark.parametrize(("name", "of"), [("stress", "both"), ("forces", "label")])
def test_what_has_no_magnitude(name, of):
    with pytest.raises(ValueError, match=f"'{name}' has entries of shape .*'magnitude' needs numbers"):
        PropertyTerm(name, residual=Magnitude(of))


def test_an_unknown_magnitude_gets_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'label'"):
        Magnitude("labels")


# ---- polarization ----


def crystal(*cells):
    return {"ptr": torch.arange(len(cells) + 1), "cell": torch.tensor(cells, dtype=torch.float64)}


CUBE = [[2.0, 0, 0], [0, 2, 0], [0, 0, 2]]
SKEW = [[2.0, 0, 0], [1, 3, 0], [0, 1, 4]]
FLAT = [[2.0, 0, 0], [0, 2, 0], [0, 0, 0]]
NONE = [[0.0, 0, 0], [0, 0, 0], [0, 0, 0]]


def modulo(difference, batch, **options):
    return ModuloQuantum(**options)(difference, torch.zeros_like(difference), batch)


@pytest.mark.parametrize("quantum", [1.0, 2.0])
def test_whole_quanta_are_no_error(quantum):
    batch = batch_of(missing=False)
    batch["pbc"][:] = True
    whole = torch.randint(-5, 6, (8, 3), generator=torch.Generator().manual_seed(0)).double()
    shift = quantum * (whole[:, :, None] * batch["cell"]).sum(1)
    prediction, part = batch["x::polarization"], ModuloQuantum(quantum)
    found = [part(p, batch["polarization"], batch) for p in (prediction, prediction + shift)]
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)


def test_fractions_lie_between_minus_and_plus_one_half():
    """The upper end belongs to it."""
    batch = crystal(CUBE, CUBE, CUBE, CUBE)
    difference = vectors([1.0, -1.0, 0.5], [3.0, -3.0, 2.0], [1.5, -1.5, 0.0], [100.9, -0.25, 1.0001])
    expected = vectors([1.0, 1.0, 0.5], [1.0, 1.0, 0.0], [-0.5, 0.5, 0.0], [0.9, -0.25, -0.9999])
    torch.testing.assert_close(modulo(difference, batch), expected)


def test_the_error_is_the_same_in_every_frame_and_for_every_choice_of_order():
    batch, difference = crystal(SKEW, SKEW), 10 * torch.randn(2, 3, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    turned = {**batch, "cell": batch["cell"] @ rotation}
    torch.testing.assert_close(modulo(difference @ rotation, turned), modulo(difference, batch) @ rotation)
    permuted = {**batch, "cell": batch["cell"][:, [2, 0, 1]]}
    torch.testing.assert_close(modulo(difference, permuted), modulo(difference, batch))


def test_the_gradient_is_that_of_a_difference():
    batch, difference = crystal(SKEW), vectors([7.0, -3, 2]).requires_grad_()
    modulo(difference, batch).sum().backward()
    torch.testing.assert_close(difference.grad, torch.ones(1, 3, dtype=torch.float64))


def test_what_is_not_periodic_has_one_branch():
    batch = {**crystal(CUBE), "pbc": torch.tensor([[True, True, False]])}
    torch.testing.assert_close(modulo(vectors([3.5, -3.5, 3.5]), batch), vectors([-0.5, 0.5, 3.5]))


def test_small_polarizations_are_a_difference():
    batch, difference = crystal(SKEW), vectors([0.1, 0.2, -0.3])
    assert torch.equal(modulo(difference, batch), difference)


@pytest.mark.parametrize("cell", [FLAT, NONE])
def test_a_molecule_has_no_quantum(cell):
    batch = {**crystal(CUBE, cell, cell), "index": torch.tensor([7, 8, 9])}
    label = vectors([1.0, 2, 3], [1, 2, 3], [MISSING] * 3)
    assert modulo(label, batch).isnan().all(1).tolist() == [False, True, True]
    with pytest.raises(ValueError, match=r"Structures 8 have a polarization, but no cell"):
        ModuloQuantum().check(label, batch)
    with pytest.raises(ValueError, match=r"Structures 1 have"):
        Scaled("modulo_quantum", factor=2.0).check(label, crystal(CUBE, cell, cell))
    ModuloQuantum().check(label[[0, 2]], crystal(CUBE, cell))


def test_a_molecule_without_a_label_does_not_matter():
    batch = crystal(CUBE, NONE)
    batch["polarization"] = vectors([1.0, 2, 3], [MISSING] * 3)
    prediction = {"polarization": torch.zeros(2, 3, dtype=torch.float64).requires_grad_()}
    total = TotalLoss({"polarization": {"residual": "modulo_quantum"}})(prediction, batch)
    total.backward()
    assert total > 0 and prediction["polarization"].grad.isfinite().all()


def test_a_cell_is_needed():
    with pytest.raises(KeyError, match="needs 'cell'"):
        modulo(vectors([1.0, 2, 3]), {"ptr": torch.tensor([0, 1])})


@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
def test_only_structures_have_a_polarization(name):
    with pytest.raises(ValueError, match=f"'{name}' has entries .*'modulo_quantum' needs"):
        PropertyTerm(name, residual="modulo_quantum")


@pytest.mark.parametrize("quantum", [0, -1.0, math.nan, True])
def test_a_quantum_is_positive(quantum):
    with pytest.raises(ValueError, match="charge_quantum"):
        ModuloQuantum(quantum)


# ---- functions on a grid ----


def test_the_integral_of_a_shifted_peak():
    """A peak one point off is an error of one point, not of two peaks."""
    peak = torch.zeros(1, 11, dtype=torch.float64)
    peak[0, 5] = 1.0
    found = Cumulative(0.1)(peak, peak.roll(1), {})
    assert found.count_nonzero() == 1 and found[0, 5] == 0.1


@pytest.mark.parametrize(("method", "last"), [("sum", 10), ("trapezoid", 9)])
def test_the_last_point_is_the_whole_integral(method, last):
    values = torch.randn(3, 11, dtype=torch.float64)
    found = Cumulative(0.1, method)(values, torch.zeros_like(values), {})[:, last]
    expected = 0.1 * values.sum(1) if method == "sum" else torch.trapezoid(values, dx=0.1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("method", "known"), [("sum", [1, 1, 0, 0]), ("trapezoid", [1, 0, 0])])
def test_there_is_no_integral_beyond_a_missing_number(method, known):
    label = vectors([1.0, 1, MISSING, 1])
    assert Cumulative(1.0, method).labelled(label).int().tolist() == [known]


@pytest.mark.parametrize("options", [(0.0,), (-1.0,), (math.nan,), (1.0, "simpson")])
def test_an_integral_makes_sense(options):
    with pytest.raises(ValueError, match=r"spacing > 0|Unknown method"):
        Cumulative(*options)


@pytest.mark.parametrize(
    ("prop", "method"), [(PROPERTIES["energy"], "sum"), (Property("x", shape=(1,)), "trapezoid")]
)
def test_an_integral_needs_a_grid(prop, method):
    with pytest.raises(ValueError, match="'cumulative' needs a grid"):
        PropertyTerm(prop, residual=Cumulative(1.0, method))


# ---- relative and scaled ----


def test_a_relative_error_has_no_unit():
    """Far above the offset; far below it is absolute."""
    p, q = torch.randn(2, 20, 3, dtype=torch.float64)
    for of in ("row", "entry"):
        part = Relative(1e-12, of)
        torch.testing.assert_close(part(1e3 * p, 1e3 * q, {}), part(p, q, {}))
        torch.testing.assert_close(Relative(1e12, of)(p, q, {}) * 1e12, p - q)


@pytest.mark.parametrize(
    ("options", "words"), [((0.0,), "offset > 0"), ((1.0, "rows"), "did you mean 'row'")]
)
def test_a_relative_error_makes_sense(options, words):
    with pytest.raises(ValueError, match=words):
        Relative(*options)


@pytest.mark.parametrize("factor", [0.0, math.nan, math.inf, True, "2"])
def test_a_factor_is_a_number(factor):
    with pytest.raises((ValueError, TypeError), match="factor"):
        Scaled(factor=factor)


def test_scaled_residuals_say_their_unit():
    assert Scaled(factor=1602.0, name_of_unit="kbar").unit("eV/Å³") == "kbar"
    assert Scaled("per_atom", factor=1000.0).unit("eV") == "eV/atom/1000"


def test_a_name_inside_gets_the_nearest():
    with pytest.raises(ValueError, match="Unknown residual 'per_atoms'; did you mean 'per_atom'"):
        Scaled("per_atoms", factor=2.0)


def test_parts_inside_keep_what_they_say():
    inner = Direction()
    for outer in (Scaled(inner, factor=2.0), Standardized(inner, scale=2.0)):
        assert (outer.linear, outer.scaled_by_label) == (False, True)
        assert outer.entry_shape(PROPERTIES["forces"]) == (3,)


# ---- standardized ----


def fitted(part, prop, *batches):
    for batch in batches:
        part.fit(batch[prop], batch)
    part.fitted()
    return part


@pytest.mark.parametrize("inner", ["difference", "voigt", "trace"])
def test_a_scale_is_the_root_mean_square_of_the_labels(inner):
    batch = make()
    part = fitted(Standardized(inner), "stress", batch)
    zeros = torch.zeros_like(batch["stress"])
    known = part.labelled(batch["stress"])
    residual = part.inner(zeros, batch["stress"], batch)[known]
    torch.testing.assert_close(part.sigma, residual.square().mean().sqrt())
    torch.testing.assert_close(
        part(zeros, batch["stress"], batch)[known].square().mean(), torch.ones(()).double()
    )


def test_a_scale_per_atom():
    batch = make()
    part = fitted(Standardized("per_atom"), "energy", batch)
    energies = (batch["energy"] / batch["ptr"].diff())[~batch["energy"].isnan()]
    torch.testing.assert_close(part.sigma, energies.square().mean().sqrt())


def test_a_scale_by_element():
    batch = make()
    part = fitted(Standardized(by="element"), "forces", batch)
    for number in (1, 6, 8):
        of = batch["forces"][batch["numbers"] == number]
        torch.testing.assert_close(part.sigma[number], of[~of.isnan()].square().mean().sqrt())


def test_what_was_never_seen_or_is_always_zero_keeps_its_unit():
    batch = make()
    batch["forces"][batch["numbers"] == 8] = 0.0
    batch["forces"][batch["numbers"] == 6] = MISSING
    part = fitted(Standardized(by="element"), "forces", batch)
    assert part.sigma[[6, 8, 14]].tolist() == [1.0, 1.0, 1.0] and part.sigma[1] != 1.0


@pytest.mark.parametrize(("by", "prop"), [("all", "stress"), ("element", "forces")])
def test_a_fit_to_batches_is_the_fit_to_the_whole(by, prop):
    batch = make()
    parts = [take(batch, part) for part in ([0, 1, 2], [3, 4], [], [5, 6, 7])]
    torch.testing.assert_close(
        fitted(Standardized(by=by), prop, *parts).sigma,
        fitted(Standardized(by=by), prop, batch).sigma,
        **EXACT,
    )


@pytest.mark.parametrize(("by", "prop"), [("all", "stress"), ("element", "forces")])
def test_a_scale_is_saved(by, prop):
    batch = make()
    part, fresh = fitted(Standardized(by=by), prop, batch), Standardized(by=by)
    assert fresh.needs_fit
    fresh.load_state_dict(part.state_dict())
    for copied in (fresh, copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
        assert not copied.needs_fit
        found = copied(batch[f"x::{prop}"], batch[prop], batch)
        torch.testing.assert_close(found, part(batch[f"x::{prop}"], batch[prop], batch), equal_nan=True)


def test_a_state_that_was_never_fitted_still_needs_it():
    part = Standardized()
    part.load_state_dict(Standardized().state_dict())
    assert part.needs_fit


def test_a_given_scale_comes_from_the_config():
    assert not Standardized(scale=2.0).state_dict() and not Standardized(scale=2.0).needs_fit
    assert Standardized(scale=2.0).sigma == 2.0


def test_a_loss_is_fitted_to_its_training_structures():
    batch = make()
    loss = TotalLoss({"forces": PropertyTerm("forces", residual="standardized", penalty=Huber(0.3))})
    with pytest.raises(ValueError, match="'standardized' has no σ yet"):
        loss({"forces": batch["x::forces"]}, batch)
    loss.pre_fit([take(batch, [0, 1, 2, 3]), take(batch, [4, 5, 6, 7])])
    expected = fitted(Standardized(), "forces", batch)
    torch.testing.assert_close(loss.terms["forces"].residual.sigma, expected.sigma)
    assert loss({"forces": batch["x::forces"]}, batch) > 0


def test_no_label_is_nothing_to_fit_to():
    batch = {**make(), "forces": torch.full((25, 3), MISSING).double()}
    for batches in ([], [batch]):
        with pytest.raises(ValueError, match="no label to fit its σ to"):
            fitted(Standardized(), "forces", *batches)


def test_one_fit_at_a_time():
    batch = make()
    with pytest.raises(ValueError, match=r"inside 'standardized' .* give its scale"):
        fitted(Standardized(Standardized()), "forces", batch)
    assert fitted(Scaled(Standardized(), factor=2.0), "forces", batch).needs_fit is False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": "elements"}, "did you mean 'element'"),
        ({"scale": 1.0, "by": "element"}, "by='element' needs {element: number}"),
        ({"scale": {"H": 1.0}}, "by='all' needs one number"),
        ({"scale": 0.0}, "scale > 0"),
        ({"scale": {"H": -1.0}, "by": "element"}, "scale > 0, got -1.0 for H"),
        ({"scale": {"Hx": 1.0}, "by": "element"}, "Unknown element 'Hx'"),
    ],
)
def test_a_scale_makes_sense(options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Standardized(**options)


def test_only_atoms_have_an_element():
    with pytest.raises(ValueError, match="'energy' has one row a structure"):
        PropertyTerm("energy", residual=Standardized(by="element"))
    batch = make()
    del batch["numbers"]
    with pytest.raises(KeyError, match="needs 'numbers'"):
        compared("standardized_element", batch)


# ---- formulas ----


@pytest.mark.parametrize("name", RESIDUALS)
def test_a_formula_names_its_property(name):
    residual = RESIDUALS[name]()
    assert RESIDUAL_OF[name] in residual.formula(RESIDUAL_OF[name])
    assert isinstance(residual.unit("eV"), str)


@pytest.mark.parametrize(
    ("residual", "formula", "unit"),
    [
        (Difference(), "Δx", "eV"),
        (PerAtom(), "Δx / N", "eV/atom"),
        (Voigt("mandel"), "(xx, yy, zz, √2yz, √2xz, √2xy) of ½(Δx + Δxᵀ)", "eV"),
        (Voigt(triangle="upper"), "(xx, yy, zz, yz, xz, xy) of Δx (upper triangle)", "eV"),
        (Trace(), "tr(Δx) / 3", "eV"),
        (Relative(0.3), "Δx / (‖label‖ + 0.3)", ""),
        (Relative(0.3, "entry"), "Δx / (|label| + 0.3)", ""),
        (Direction(0.01), "Δ(x/‖x‖), of labels from 0.01", ""),
        (Magnitude(), "|x| − |label|", "eV"),
        (Magnitude("label"), "x − |label|", "eV"),
        (ModuloQuantum(2.0, per_atom=True), "(Δx mod 2 e · lattice vectors) / N", "eV/atom"),
        (Cumulative(0.05), "Σ Δx · 0.05, up to each grid point", "eV"),
        (Scaled(factor=2.0), "2 · [Δx]", "eV/2"),
        (Standardized(), "[Δx] / σ, σ = to be fitted", ""),
        (Standardized(scale=0.3), "[Δx] / σ, σ = 0.3", ""),
        (Standardized(scale={"H": 0.3}, by="element"), "[Δx] / σ, σ = (H: 0.3) by element", ""),
    ],
)
def test_formulas(residual, formula, unit):
    assert (residual.formula("x"), residual.unit("eV")) == (formula, unit)

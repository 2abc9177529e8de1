"""Which rows a term looks at."""

import pytest
import torch

from pesloss.losses import Elements, Given, PropertyTerm, TotalLoss
from tests.batches import MISSING, make
from tests.laws import HostSynchronisations, assert_same, forward, leaves
from tests.parts import MASKS, PENALTIES, REDUCTIONS

# others count what has no label, or are of structures
OF_LABELS = [name for name in REDUCTIONS if name not in ("mean_over_entries", "mean_over_atoms")]
PAIRS = [("squared", name) for name in OF_LABELS] + [(name, "mean") for name in PENALTIES]


def loss(mask, penalty="squared", reduction="mean", prop="forces"):
    parts = {"penalty": PENALTIES[penalty](), "reduction": REDUCTIONS[reduction]()}
    return TotalLoss({prop: PropertyTerm(prop, mask=mask, **parts)})


def batch_of(**options):
    """A batch that says everything masks ask for."""
    batch = make(**options)
    atoms = len(batch["batch"])
    return {
        **batch,
        "numbers": torch.tensor([1, 6, 8, 14])[torch.arange(atoms) % 4],
        "chosen": torch.arange(atoms) % 3 > 0,
    }


def test_others_are_tried():
    assert {"labelled", "free_atoms", "elements", "given"} == set(MASKS)


@pytest.mark.parametrize("name", [name for name in MASKS if name != "labelled"])
@pytest.mark.parametrize(("penalty", "reduction"), PAIRS)
def test_what_is_not_chosen_has_no_label(name, penalty, reduction):
    batch = batch_of()
    predictions = leaves(batch)
    unlabelled = {**batch, "forces": batch["forces"].clone()}
    unlabelled["forces"][~MASKS[name]()(batch)] = MISSING
    found = forward(loss(MASKS[name](), penalty, reduction), predictions, batch)
    assert_same(found, forward(loss("labelled", penalty, reduction), predictions, unlabelled))


@pytest.mark.parametrize("name", MASKS)
def test_nothing_waits_for_the_device(name):
    batch, mask = batch_of(), MASKS[name]()
    with HostSynchronisations() as waiting:
        mask(batch)
    assert not waiting.found


@pytest.mark.parametrize("name", MASKS)
def test_a_choice_has_words(name):
    assert bool(MASKS[name]().formula()) == (name != "labelled")


def test_forces_of_fixed_atoms_have_no_gradient():
    batch = make(missing=False, weights=False)
    predictions = leaves(batch)
    (gradient,) = torch.autograd.grad(loss("free_atoms")(predictions, batch), predictions["forces"])
    assert torch.equal((gradient != 0).all(1), ~batch["fixed"])


def test_all_atoms_fixed_is_no_label():
    batch = make(missing=False)
    batch["fixed"] = torch.ones_like(batch["fixed"])
    assert forward(loss("free_atoms"), leaves(batch), batch)[0] == 0


@pytest.mark.parametrize("mask", ["free_atoms", Elements(["H"])])
def test_only_atoms_are_chosen(mask):
    with pytest.raises(ValueError, match="chooses atoms, but 'energy' has one row a structure"):
        PropertyTerm("energy", mask=mask)


@pytest.mark.parametrize(
    ("mask", "key"), [("free_atoms", "fixed"), (Elements(["H"]), "numbers"), (Given("x"), "x")]
)
def test_the_batch_says_what_is_asked(mask, key):
    batch = make()
    batch.pop(key, None)
    predictions = leaves(batch)
    with pytest.raises(KeyError, match=f"needs '{key}' in the batch"):
        loss(mask)(predictions, batch)


# ---- elements ----


@pytest.mark.parametrize("elements", [["H", "O"], [1, 8], ["H", 8], ("O", "H", "H")])
def test_elements_by_symbol_or_number(elements):
    batch = batch_of()
    chosen = (batch["numbers"] == 1) | (batch["numbers"] == 8)
    assert torch.equal(Elements(elements)(batch), chosen)


def test_one_element_needs_no_list():
    assert torch.equal(Elements("Si")(batch_of()), batch_of()["numbers"] == 14)


@pytest.mark.parametrize("element", ["Xx", "h", 0, 300])
def test_an_element_that_does_not_exist(element):
    with pytest.raises(ValueError, match="Unknown element"):
        Elements([element])


def test_a_choice_of_no_element_is_none():
    with pytest.raises(ValueError, match="at least one element"):
        Elements([])


# ---- given by the batch ----


@pytest.mark.parametrize(("prop", "rows"), [("energy", 8), ("forces", 25)])
def test_rows_of_any_property(prop, rows):
    batch = {**make(missing=False, weights=False), "chosen": torch.arange(rows) % 2 == 0}
    predictions = leaves(batch)
    total = loss(Given("chosen"), prop=prop)(predictions, batch)
    errors = (predictions[prop] - batch[prop]).detach().square()
    torch.testing.assert_close(total.detach(), errors[batch["chosen"]].mean())


def test_single_components():
    batch = make(missing=False, weights=False)
    batch["chosen"] = batch["forces"] > 0
    predictions = leaves(batch)
    total = loss(Given("chosen"))(predictions, batch)
    errors = (predictions["forces"] - batch["forces"]).detach().square()
    torch.testing.assert_close(total.detach(), errors[batch["chosen"]].mean())


def test_numbers_are_no_choice():
    batch = {**make(), "chosen": torch.ones(25)}
    predictions = leaves(batch)
    with pytest.raises(TypeError, match=r"'chosen' must be true or false, found torch\.float32"):
        loss(Given("chosen"))(predictions, batch)

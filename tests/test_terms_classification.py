"""Cross-entropy of classes, equal to torch's where that has one."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pesloss.losses import Mean, Property, TotalLoss
from pesloss.losses.terms.classification import ClassTerm
from tests.batches import MISSING
from tests.laws import EXACT

PHASE, SITE, PARTS = Property("phase"), Property("site", rows="atom"), Property("parts", shape=(3,))
CLASSES = torch.tensor([0.0, 2.0, 1.0, 2.0, 0.0, 1.0], dtype=torch.float64)
WEIGHTS = [1.0, 3.0, 0.5]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(prop, logits, label, **options):
    batch = {"ptr": torch.arange(len(label) + 1), prop.name: label}
    term = ClassTerm(prop, **options)
    return TotalLoss({"class": term})({f"{prop.name}_logits": logits}, batch)


def same(found, expected, logits):
    torch.testing.assert_close(found, expected, **EXACT)
    gradients = (torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (found, expected))
    torch.testing.assert_close(*gradients, **EXACT)


def test_the_number_of_a_class():
    logits = normal(6, 3).requires_grad_()
    found = value(PHASE, logits, CLASSES, classes=3)
    same(found, cross_entropy(logits, CLASSES.long()), logits)


def test_atoms_have_classes_too():
    logits = normal(6, 3)
    batch = {"ptr": torch.tensor([0, 2, 6]), "batch": torch.tensor([0, 0, 1, 1, 1, 1]), "site": CLASSES}
    found = TotalLoss({"site": ClassTerm(SITE, classes=3)})({"site_logits": logits}, batch)
    torch.testing.assert_close(found, cross_entropy(logits, CLASSES.long()), **EXACT)


def test_a_missing_class_does_not_count():
    logits, label = normal(6, 3).requires_grad_(), CLASSES.clone()
    label[1] = MISSING
    keep = [0, 2, 3, 4, 5]
    same(value(PHASE, logits, label, classes=3), cross_entropy(logits[keep], CLASSES[keep].long()), logits)


def test_weights_of_classes_are_weights_of_their_rows():
    """Over the sum of the weights they are torch's; else the number of labels stays what it is."""
    logits, weights = normal(6, 3).requires_grad_(), torch.tensor(WEIGHTS, dtype=torch.float64)
    expected = cross_entropy(logits, CLASSES.long(), weights)
    found = value(PHASE, logits, CLASSES, classes=3, class_weights=WEIGHTS, reduction=Mean("weights"))
    same(found, expected, logits)
    found = value(PHASE, logits, CLASSES, classes=3, class_weights=WEIGHTS)
    same(found, expected * weights[CLASSES.long()].sum() / 6, logits)


def test_a_class_of_weight_zero_is_no_label():
    logits, label = normal(6, 3), CLASSES.clone()
    label[label == 1] = MISSING
    expected = value(PHASE, logits, label, classes=3)
    found = value(PHASE, logits, CLASSES, classes=3, class_weights=[1.0, 0.0, 1.0])
    torch.testing.assert_close(found, expected, **EXACT)


def test_probabilities_of_classes():
    logits, label = normal(6, 3).requires_grad_(), normal(6, 3, seed=1).softmax(1)
    same(value(PARTS, logits, label), cross_entropy(logits, label), logits)
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    same(value(PARTS, logits, label, class_weights=WEIGHTS), cross_entropy(logits, label, weights), logits)


def test_a_row_of_probabilities_needs_all_of_them():
    logits, label = normal(6, 3), normal(6, 3, seed=1).softmax(1)
    label[0, 2] = MISSING
    torch.testing.assert_close(value(PARTS, logits, label), cross_entropy(logits[1:], label[1:]), **EXACT)


def test_the_true_class_for_certain_is_the_number_of_the_class():
    logits, certain = normal(6, 3), torch.eye(3, dtype=torch.float64)[CLASSES.long()]
    expected = value(PHASE, logits, CLASSES, classes=3)
    torch.testing.assert_close(value(PARTS, logits, certain), expected, **EXACT)


def test_yes_or_no():
    logits, label = normal(6).requires_grad_(), (CLASSES > 0).double()
    same(value(PHASE, logits, label, kind="sigmoid"), binary_cross_entropy_with_logits(logits, label), logits)


def test_each_class_for_itself():
    logits, label = normal(6, 3).requires_grad_(), (normal(6, 3, seed=1) > 0).double()
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    expected = binary_cross_entropy_with_logits(logits, label, weights)
    same(value(PARTS, logits, label, kind="sigmoid", class_weights=WEIGHTS), expected, logits)
    label[2, 1] = MISSING
    known = ~label.isnan()
    expected = binary_cross_entropy_with_logits(logits[known], label[known])
    same(value(PARTS, logits, label, kind="sigmoid"), expected, logits)


@pytest.mark.parametrize("number", [3.0, -1.0, 0.5, float("inf")])
def test_a_number_that_is_no_class_is_loud(number):
    label = CLASSES.clone()
    label[0] = number
    assert not value(PHASE, normal(6, 3), label, classes=3).isfinite()


@pytest.mark.parametrize(
    ("prop", "options", "match"),
    [
        (PHASE, {"classes": 3, "kind": "softmx"}, "did you mean 'softmax'"),
        (PHASE, {}, "say of how many"),
        (PHASE, {"classes": 1}, "say of how many"),
        (PARTS, {"classes": 3}, "leave it out"),
        (Property("x", shape=(1,)), {}, "C > 1"),
        (Property("x", shape=(3, 3)), {}, "C > 1"),
        (PHASE, {"classes": 3, "class_weights": [1.0, 2.0]}, "has 3 classes"),
        (PHASE, {"kind": "sigmoid", "class_weights": [1.0]}, "a single yes or no has none"),
        (PARTS, {"class_weights": [1.0, -1.0, 1.0]}, "finite and not negative"),
    ],
)
def test_what_makes_no_sense_is_refused(prop, options, match):
    with pytest.raises(ValueError, match=match):
        ClassTerm(prop, **options)


def test_logits_of_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match=r"'phase_logits' has shape \(6, 4\), expected \(structures, 3\)"):
        value(PHASE, normal(6, 4), CLASSES, classes=3)


def test_one_label_is_one_observation():
    batch = {"ptr": torch.arange(7), "phase": CLASSES, "parts": torch.ones(6, 3, dtype=torch.float64)}
    for term, labels in ((ClassTerm(PHASE, classes=3), 6), (ClassTerm(PARTS), 6)):
        assert TotalLoss({"class": term}).step([batch]).labels.tolist() == [labels]
    assert TotalLoss({"class": ClassTerm(PARTS, kind="sigmoid")}).step([batch]).labels.tolist() == [18]


def test_the_formula_says_every_number():
    said = ClassTerm(PHASE, classes=3, class_weights=WEIGHTS).formula()
    assert "[1.0, 3.0, 0.5]" in said and "softmax(phase_logits)" in said

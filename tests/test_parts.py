"""A new part cannot be forgotten: what the package holds, the tables list, by name and with an example."""

import inspect

import pytest

from pesloss.losses import MASKS, PENALTIES, REDUCTIONS, RESIDUALS, Mask, Penalty, Reduction, Residual
from pesloss.names import part
from pesloss.weighting import WEIGHTINGS, Weighting
from tests import parts

NAMES = {Penalty: PENALTIES, Reduction: REDUCTIONS, Residual: RESIDUALS, Mask: MASKS, Weighting: WEIGHTINGS}


@pytest.mark.parametrize("base", parts.TABLES, ids=lambda base: base.__name__)
def test_every_class_has_an_example(base):
    assert {type(make()) for make in parts.TABLES[base].values()} == parts.final_classes(base)


@pytest.mark.parametrize("base", NAMES, ids=lambda base: base.__name__)
def test_every_class_has_a_name_unless_it_needs_an_argument(base):
    complete = {cls for cls in parts.final_classes(base) if not needs_arguments(cls)}
    assert {type(make()) for make in NAMES[base].values()} == complete


def needs_arguments(cls):
    parameters = inspect.signature(cls).parameters.values()
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


@pytest.mark.parametrize("base", NAMES, ids=lambda base: base.__name__)
def test_a_part_is_an_object_or_a_name(base):
    for name, make in NAMES[base].items():
        assert isinstance(part("part", name, base, NAMES[base]), type(make()))
    made = next(iter(NAMES[base].values()))()
    assert part("part", made, base, NAMES[base]) is made


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(ValueError, match="Unknown penalty 'hubr'; did you mean 'huber'"):
        part("penalty", "hubr", Penalty, PENALTIES)


def test_a_part_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="penalty must be a Penalty or one of absolute"):
        part("penalty", 3, Penalty, PENALTIES)


def test_a_class_is_abstract_or_final():
    for base in parts.TABLES:
        final = parts.final_classes(base)
        assert not [(a, b) for a in final for b in final if a is not b and issubclass(a, b)]

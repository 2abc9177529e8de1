"""Random numbers of a structure are its own, whatever batch it is dealt to, and random enough."""

import math

import pytest
import torch

from pesloss.losses.random import Draws, hashed
from tests.batches import make, take
from tests.laws import HostSynchronisations

KINDS = ["uniform", "normal", "signs"]
MASK = (1 << 64) - 1


def many(num=20000):
    return {"ptr": torch.tensor([0, num]), "positions": torch.zeros(num, 3), "index": torch.tensor([7])}


def splitmix(word):
    """The reference algorithm, in Python's whole numbers."""
    word = (word + 0x9E3779B97F4A7C15) & MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def test_the_hash_is_splitmix():
    words = [0, 1, 12345, MASK, 1 << 63, 0x123456789ABCDEF]
    signed = torch.tensor([word - (1 << 64) if word >> 63 else word for word in words])
    assert [word & MASK for word in hashed(signed).tolist()] == [splitmix(word) for word in words]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", ["structure", "atom"])
def test_a_structure_draws_the_same_in_every_batch(kind, rows):
    batch, order = make(), [5, 2, 7, 0]
    draw = getattr(Draws("test"), kind)
    whole = {**batch, "drawn": draw(batch, rows, 3)}
    part = take(batch, order)
    assert torch.equal(draw(part, rows, 3), take(whole, order)["drawn"])


@pytest.mark.parametrize("change", [{"seed": 1}, {"stream": "other"}, {"purpose": "other"}, {"step": 1}])
def test_whatever_they_are_for_changes_all_of_them(change):
    batch = make()
    purpose, step = change.pop("purpose", ""), change.pop("step", 0)
    other = Draws(**{"stream": "test", **change})
    for _ in range(step):
        other.uniform(batch, "atom", 3)
        other.advance()
    found, expected = other.uniform(batch, "atom", 3, purpose), Draws("test").uniform(batch, "atom", 3)
    assert (found != expected).all()


def test_no_two_numbers_of_a_batch_are_equal():
    batch = make()
    draws = Draws("test")
    numbers = [draws.uniform(batch, rows, 5, "a").flatten() for rows in ("structure", "atom")]
    assert torch.cat(numbers).unique().numel() == sum(map(torch.numel, numbers))


def test_uniform_numbers_fill_the_interval():
    numbers = Draws("test").uniform(many(), "atom", 3).flatten().sort().values
    assert numbers[0] >= 0 and numbers[-1] < 1
    distance = (numbers - torch.linspace(0, 1, len(numbers), dtype=torch.float64)).abs().max()
    assert distance < 1.63 / math.sqrt(len(numbers))  # Kolmogorov and Smirnov at 1 %


def test_normal_numbers_are_normal():
    numbers = Draws("test").normal(many(), "atom", 3)
    share = torch.special.ndtr(numbers.flatten().sort().values)
    distance = (share - torch.linspace(0, 1, share.numel(), dtype=torch.float64)).abs().max()
    assert distance < 1.63 / math.sqrt(share.numel())
    correlations = torch.corrcoef(numbers.T) - torch.eye(3)
    assert correlations.abs().max() < 3 / math.sqrt(len(numbers))


def test_signs_are_as_often_plus_as_minus():
    numbers = Draws("test").signs(many(), "atom", 3)
    assert numbers.abs().eq(1).all() and numbers.mean().abs() < 3 / math.sqrt(numbers.numel())
    assert (numbers[1:] * numbers[:-1]).mean().abs() < 3 / math.sqrt(numbers.numel())


def test_steps_are_independent():
    draws, first = Draws("test"), None
    for _ in range(2):
        first, second = draws.normal(many(), "atom", 1)[:, 0], first
        draws.advance()
    assert torch.corrcoef(torch.stack([first, second]))[0, 1].abs() < 3 / math.sqrt(len(first))


def test_a_resumed_training_draws_what_it_would_have_drawn():
    """Also if it is told where it stands once more, before its first step."""
    batch, draws, resumed = make(), Draws("test"), Draws("test")
    for _ in range(3):
        first = draws.normal(batch, "atom", 3)
        draws.advance()
    resumed.load_state_dict(draws.state_dict())
    resumed.advance()
    assert torch.equal(resumed.normal(batch, "atom", 3), draws.normal(batch, "atom", 3))
    assert not torch.equal(resumed.normal(batch, "atom", 3), first)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_draws_nothing(kind):
    assert getattr(Draws("test"), kind)(take(make(), []), "atom", 3).shape == (0, 3)


def test_nothing_waits_for_the_device():
    batch, draws = make(), Draws("test")
    with HostSynchronisations() as waiting:
        draws.normal(batch, "atom", 3)
        draws.advance()
    assert not waiting.found


def test_a_batch_says_which_structures_it_holds():
    batch = make()
    del batch["index"]
    with pytest.raises(KeyError, match=r"'test' need 'index' \[structures\]"):
        Draws("test").normal(batch, "atom", 3)

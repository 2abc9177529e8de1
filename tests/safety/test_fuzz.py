"""A damaged checkpoint is refused, or holds what it held: never another error, a crash, or other numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pesloss import checkpoint
from pesloss.checkpoint import BEST, LAST, CheckpointError
from tests.safety.watch import watched
from tests.trainings import same

VARIANTS = 80


def flipped(content: bytearray, draw: random.Random) -> None:
    """Some bits, as a disk or a cosmic ray flips them."""
    for _ in range(draw.choice([1, 1, 8])):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def truncated(content: bytearray, draw: random.Random) -> None:
    """The end is missing, as after a download that broke off."""
    del content[draw.randrange(len(content)) :]


def spliced(content: bytearray, draw: random.Random) -> None:
    """A part is missing."""
    begin, end = sorted(draw.sample(range(len(content)), 2))
    del content[begin:end]


def overwritten(content: bytearray, draw: random.Random) -> None:
    """A part stands in another place too."""
    begin, end, length = draw.randrange(len(content)), draw.randrange(len(content)), draw.randrange(1, 300)
    content[begin : begin + length] = content[end : end + length]


def doctored(content: bytearray, draw: random.Random) -> None:
    """Bytes of the directory of the archive, where sizes, names and places are."""
    for _ in range(draw.choice([1, 2, 4])):
        content[-draw.randrange(1, 4000)] = draw.choice([0, 1, 127, 255, draw.randrange(256)])


def repeated(content: bytearray, draw: random.Random) -> None:
    """Twice, or with something before or after it."""
    other = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 500)))
    content[:] = draw.choice([content + content, other + content, content + other])


WAYS: Mapping[str, Callable[[bytearray, random.Random], None]] = {
    way.__name__: way for way in (flipped, truncated, spliced, overwritten, doctored, repeated)
}


@pytest.mark.parametrize("name", [BEST, LAST])
@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_checkpoint_is_refused_or_holds_what_it_held(way, name, run, tmp_path):
    whole, expected = (run / name).read_bytes(), checkpoint.read(run / name)
    draw, path = random.Random(f"{way} {name}"), tmp_path / "damaged.ckpt"
    refused = 0
    for _ in range(VARIANTS):
        content = bytearray(whole)
        WAYS[way](content, draw)
        path.write_bytes(content)
        refused += not _held(path, tmp_path, expected)
    assert refused > VARIANTS / 4 or way == "repeated"


def _held(path: Path, folder: Path, expected: Mapping[str, object]) -> bool:
    """Whether the content can still be read; then it is the same."""
    with watched(folder) as events:
        try:
            assert same(checkpoint.read(path), expected)
        except CheckpointError:
            return False
        finally:
            assert not events
    return True

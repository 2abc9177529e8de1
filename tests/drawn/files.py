"""A file is read, or an error names it and says what is wrong with it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pesloss.data import Structures, read
from pesloss.losses.properties import as_properties
from tests.drawn.configs import sentence

PROPERTIES = as_properties(["energy", "forces", "stress", "dipole", "charges"])
KEYS = (
    "energy REF_energy forces force stress virial dipole charges weight energy_weight config_type "
    "Lattice pbc E F"
)
VALUES = (
    "1.0",
    "-1e30",
    "nan",
    "inf",
    "None",
    "T",
    '"1 2 3"',
    '"1 2 3 4 5 6"',
    '"1 0 0 0 1 0 0 0 1"',
    '"a b"',
    "",
)

numbers = st.sampled_from(["0", "1.5", "-2", "nan", "inf", "1e200", "x", "", "0.0"])
symbols = st.sampled_from(["H", "O", "Cu", "X", "Foo", "8", ""])
keys = st.sampled_from(KEYS.split())
columns = st.sampled_from(["", ":forces:R:3", ":forces:R:2", ":charges:R:1", ":weight:R:1", ":fo", ":a:I:1"])


@st.composite
def frame(draw: st.DrawFn) -> str:
    """A structure in an extended XYZ file, right or wrong."""
    lines = [
        " ".join([draw(symbols), *draw(st.lists(numbers, min_size=3, max_size=6))])
        for _ in range(draw(st.integers(0, 3)))
    ]
    entries = [f"{draw(keys)}={draw(st.sampled_from(VALUES))}" for _ in range(draw(st.integers(0, 3)))]
    number = len(lines) if draw(st.integers(0, 5)) else draw(st.sampled_from(["-1", "2", "two", ""]))
    return "\n".join(
        [str(number), f"Properties=species:S:1:pos:R:3{draw(columns)} {' '.join(entries)}", *lines]
    )


shapes = st.sampled_from([(), (1,), (2,), (3,), (2, 3), (2, 3, 3), (2, 1), (2, 9), (0,), (0, 3)])
kinds = st.sampled_from(["f8", "f4", "i8", "?", "U3", "c16", "O"])
array = st.tuples(shapes, kinds, st.sampled_from([0.0, 1.0, 8.0, -1.0, np.nan, np.inf, 1e200]))
archives = st.fixed_dictionaries(
    {
        "z": st.just(((3,), "i8", 8.0)) | array,
        "R": st.just(((2, 3, 3), "random", 1.0)) | array,
    },
    optional=dict.fromkeys(("E", "F", "stress", "energy", "weight", "cell", "pbc", "dipole"), array),
)
options = st.fixed_dictionaries(
    {},
    optional={
        "keys": st.sampled_from([{"energy": "E"}, {"forces": "F"}, {"stress": "dipole"}, {"enrgy": "E"}]),
        "signs": st.sampled_from([{"forces": -1}, {"stress": 2}]),
        "voigt": st.just("vasp"),
        "index": st.sampled_from([":", "0", "5:", -1]),
    },
)
UNITS = {"energy": "eV", "length": "Å", "charge": "e"}


def told(name: str, action: Callable[[], Any]) -> Any:
    """Structures whose numbers are finite or missing, or an error that names the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers beyond the largest, of the file's own
        try:
            found = action()
        except (ValueError, KeyError) as error:
            said = sentence(error)
            assert name in said and len(said.split()) > 2, said
            return None
    assert isinstance(found, Structures)
    for structure in found:
        assert np.isfinite(structure.positions).all() and len(structure.numbers)
        assert not any(np.isinf(label).any() for label in structure.labels.values())
        assert all((weight >= 0).all() for weight in structure.weights.values())
    return found


@given(st.lists(frame(), min_size=1, max_size=3), options)
def test_any_text_is_read_or_named(frames: list[str], options: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.xyz"
        path.write_text("\n".join(frames) + "\n")
        told("drawn.xyz", lambda: read(path, PROPERTIES, **options))


def filled(shape: tuple[int, ...], kind: str, number: float) -> np.ndarray:
    if kind == "random":
        return np.random.default_rng(0).normal(size=shape)
    with np.errstate(all="ignore"):
        return np.full(shape, number).astype(kind)


@given(archives, options)
def test_any_archive_is_read_or_named(arrays: dict[str, Any], options: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "drawn.npz"
        np.savez(path, **{name: filled(*array) for name, array in arrays.items()})
        told("drawn.npz", lambda: read(path, PROPERTIES, units=UNITS, **options))


@given(st.binary(max_size=200), st.sampled_from(["xyz", "npz", "h5", "db", "traj", "json", "cif", "gz"]))
def test_any_bytes_are_named(content: bytes, suffix: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"drawn.{suffix}"
        path.write_bytes(content)
        told(f"drawn.{suffix}", lambda: read(path, PROPERTIES, units=UNITS))


@given(st.data())
def test_a_file_cut_anywhere_is_named_or_shorter(data: st.DataObject) -> None:
    text = "1\nProperties=species:S:1:pos:R:3 energy=1.0\nH 0 0 0\n" * 3
    cut = text[: data.draw(st.integers(0, len(text)))]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.xyz"
        path.write_text(cut)
        found = told("drawn.xyz", lambda: read(path, PROPERTIES))
    assert found is None or len(found) <= len(re.findall("H 0", cut))

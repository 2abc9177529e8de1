"""Labels of pairs of atoms, such as Hessians, from a file to a batch."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write

from pesloss.data import read
from pesloss.data.storage.packing import pack
from pesloss.losses.properties import as_properties
from tests.test_shared_data import shared

PROPS = as_properties(["energy", "hessian"])


def test_a_folder_of_deepmd_becomes_batches():
    structures = read(shared("deepmd_examples/hessian/data/H8C4N2O"), PROPS)
    others = read(shared("deepmd_examples/hessian/data/H10C5N2O"), PROPS)
    packed = pack([*structures, *others], PROPS, 3.5)
    assert packed.labelled == ("energy", "hessian")
    batch = packed.batch([12, 0, 3])
    assert batch["hessian"].shape == (18**2 + 2 * 15**2, 3, 3)
    matrix = np.load(shared("deepmd_examples/hessian/data/H8C4N2O/set.000/hessian.npy"))[3].reshape(45, 45)
    blocks = batch["hessian"][-(15**2) :].view(15, 15, 3, 3)
    assert torch.equal(blocks.transpose(1, 2).reshape(45, 45), torch.from_numpy(matrix))
    chunks = torch.cat([chunk["hessian"] for chunk in packed.chunks(["hessian"])])
    assert chunks.shape == (11 * 15**2 + 9 * 18**2, 3, 3)


@pytest.mark.parametrize("layout", ["matrix", "row", "blocks"])
def test_it_is_a_matrix_or_blocks(tmp_path, layout):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 6))
    blocks = matrix.reshape(2, 3, 2, 3).transpose(0, 2, 1, 3)
    labelled = Atoms("OH", positions=[[0, 0, 0], [0, 0, 1]], info={"REF_hessian": matrix})
    if layout == "blocks":
        labelled.info["REF_hessian"] = blocks.reshape(4, 3, 3)
    if layout == "row":
        labelled.info["REF_hessian"] = matrix.flatten()
    bare = Atoms("H3", positions=np.eye(3))
    path = tmp_path / "x.traj"
    write(path, [bare, labelled])
    found = read(path, PROPS)
    packed = pack(found, PROPS, 3.0)
    batch = packed.batch([0, 1])
    assert batch["hessian"][:9].isnan().all()
    np.testing.assert_array_equal(batch["hessian"][9:].numpy(), blocks.reshape(4, 3, 3))

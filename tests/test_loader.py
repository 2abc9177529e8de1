"""Batches are the same and come in the same order, whoever makes them."""

from __future__ import annotations

import pytest
import torch

from pesloss.data import Files, Packed, batches, loader
from pesloss.losses.properties import as_properties
from tests import files


@pytest.fixture(params=["mapped", "in memory"])
def part(request, tmp_path) -> Packed:
    path = files.write(tmp_path / "my.xyz", 12)
    cache = tmp_path / "cache" if request.param == "mapped" else None
    data = Files(path, val_fraction=0.25, test_fraction=0.0, cache=cache)
    return data.load(as_properties(["energy", "forces"]), 3.0, torch.float32).train


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_the_order_of_the_steps(part, workers):
    steps = batches(part, 2, shuffle=True)
    made = list(loader(part, steps, workers=workers))
    assert len(made) == len(steps)
    for batch, step in zip(made, steps, strict=True):
        assert_equal(batch, part.batch(step))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_random_state_is_left_alone(part, workers):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(loader(part, batches(part, 3), workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_of_no_structure_is_a_batch(part):
    (batch,) = loader(part, [torch.empty(0, dtype=torch.int64)])
    assert batch["ptr"].tolist() == [0]
    assert not list(loader(part, []))
    assert not list(loader(part, [], workers=1))


def test_a_device_is_never_waited_for(part):
    """A tensor on ``meta`` has a shape and no values: whoever asks for one fails."""
    steps = batches(part, 4)
    for batch, step in zip(loader(part, steps, "meta"), steps, strict=True):
        assert all(tensor.is_meta for tensor in batch.values())
        assert {n: t.shape for n, t in batch.items()} == {n: t.shape for n, t in part.batch(step).items()}


def test_memory_is_page_locked_for_a_gpu_only(part, monkeypatch):
    pinned, moved = [], []

    def to(tensor: torch.Tensor, device: torch.device, non_blocking: bool) -> torch.Tensor:
        moved.append((device.type, non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(1) or tensor)
    monkeypatch.setattr(torch.Tensor, "to", to)
    (batch,) = loader(part, [torch.tensor([0, 1])], "cuda")
    assert len(pinned) == len(moved) == len(batch)
    assert set(moved) == {("cuda", True)}
    list(loader(part, [torch.tensor([0])], "cpu"))
    assert len(pinned) == len(batch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_on_a_gpu_is_the_same(part, workers):
    steps = batches(part, 3)
    for batch, step in zip(loader(part, steps, "cuda", workers=workers), steps, strict=True):
        assert all(tensor.is_cuda for tensor in batch.values())
        assert_equal({name: tensor.cpu() for name, tensor in batch.items()}, part.batch(step))


def test_workers_are_counted(part):
    with pytest.raises(ValueError, match="workers must be 0 or more, got -1"):
        loader(part, [], workers=-1)

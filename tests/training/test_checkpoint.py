"""Checkpoints: newest, intact, few, and the same bytes for the same state."""

import logging

import pytest
import torch

from infra.storage import LocalStore
from training.checkpoint import Checkpoints


def state(samples):
    return {"weights": {"a": torch.full((3, 2), float(samples))}, "samples": samples, "history": [{"loss": 1.5}]}


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(LocalStore(tmp_path), keep=2)


def test_the_newest_is_found_and_old_ones_go(checkpoints):
    assert checkpoints.newest() is None
    for samples in (900, 1000, 20_000):
        checkpoints.save(samples, state(samples))
    assert checkpoints.newest()["samples"] == 20_000
    assert torch.equal(checkpoints.newest()["weights"]["a"], torch.full((3, 2), 20_000.0))
    assert [path for path in checkpoints.store.paths() if path.endswith(".pt")] == [
        "checkpoints/000000001000.pt",
        "checkpoints/000000020000.pt",
    ]


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "unseal"])
def test_a_damaged_one_is_passed_over(checkpoints, tmp_path, caplog, harm):
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    path = tmp_path / "checkpoints/000000000002.pt"
    data = bytearray(path.read_bytes())
    match harm:
        case "flip":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[:-100])
        case "remove":
            path.unlink()
        case "unseal":
            path.with_suffix(".json").unlink()
    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest()["samples"] == 1
    assert ("damaged" in caplog.text) is (harm != "unseal")


def test_a_state_that_was_loaded_saves_to_the_same_bytes(checkpoints, tmp_path):
    shared = "".join(["exp", "_avg"])
    tensor = torch.arange(6.0).view(2, 3)
    first = {"a": {shared: tensor}, "b": {shared: tensor.t()}, "betas": (0.9, 0.98)}
    checkpoints.save(1, first)
    checkpoints.save(2, checkpoints.newest())
    checkpoints.save(3, {"a": {"exp_avg": tensor.clone()}, "b": {"exp_avg": tensor.t().clone()}, "betas": [0.9, 0.98]})
    one, two, three = ((tmp_path / f"checkpoints/{n:012d}.pt") for n in (1, 2, 3))
    assert not one.exists()
    assert two.read_bytes() == three.read_bytes()

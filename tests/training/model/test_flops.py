"""FLOPs of published models against published figures, and of small ones by hand."""

import pytest
import torch
from small_data import MODEL

from training.config import Model
from training.distributed.world import World
from training.model.build import build
from training.model.flops import forward_flops, mfu, peak

pytestmark = pytest.mark.long  # builds published models


@pytest.mark.parametrize(("name", "expected"), [("ViT-B-32", 14.78e9), ("ViT-B-16", 41.09e9)])
def test_published_models_cost_what_is_published(name, expected):
    assert forward_flops(build(name, 0, World())) == pytest.approx(expected, rel=1e-3)


def by_hand(tokens, width, layers):
    """Two per multiply-add: four projections, an MLP of twice 4 widths, and attention's two products."""
    return layers * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)


def test_a_small_model_by_hand():
    image = by_hand(5, 16, 1) + 2 * 4 * 3 * 8 * 8 * 16 + 2 * 16 * 16
    text = by_hand(8, 16, 1) + 2 * 16 * 16
    towers = build(MODEL, 0, World())
    modes = [module.training for module in towers.model.modules()]
    assert forward_flops(towers) == image + text
    assert [module.training for module in towers.model.modules()] == modes
    assert all(weight.device.type == "cpu" for weight in towers.model.parameters())


def test_patches_left_out_cost_nothing():
    towers = build(Model(architecture=MODEL, patch_dropout=0.5), 0, World())
    image = by_hand(3, 16, 1) + 2 * 4 * 3 * 8 * 8 * 16 + 2 * 16 * 16
    assert forward_flops(towers) == image + by_hand(8, 16, 1) + 2 * 16 * 16


def test_other_towers_are_counted_too():
    config = {**MODEL, "vision_cfg": {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "avg"}}
    counted = forward_flops(build(config, 0, World()))
    assert counted > by_hand(100, 64, 6)


def test_mfu_is_three_forward_passes_over_the_peak():
    assert mfu(int(14.78e9), 10_000, 989.4e12) == pytest.approx(0.448, abs=1e-3)
    assert mfu(100, 8, 2400.0) == 1.0


@pytest.mark.parametrize(
    ("name", "precision", "tf32", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "amp_bf16", False, 989.4e12),
        ("NVIDIA H100 PCIe", "bf16", False, 756e12),
        ("NVIDIA H200", "fp32", True, 494.7e12),
        ("NVIDIA A100-SXM4-40GB", "amp_bf16", False, 312e12),
        ("NVIDIA A10G", "amp_bf16", False, 70e12),
        ("NVIDIA L40S", "amp_bf16", False, 362e12),
        ("NVIDIA L4", "amp_bf16", False, 121e12),
        ("NVIDIA GeForce RTX 4090", "fp32", False, 82.6e12),
        ("NVIDIA GB200", "bf16", False, 2500e12),
        ("Tesla V100-SXM2-16GB", "fp32", False, 15.7e12),
    ],
)
def test_known_gpus_have_their_makers_peak(monkeypatch, name, precision, tf32, expected):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    found = peak(torch.device("cuda", 0), precision, tf32)
    assert found.flops == pytest.approx(expected)
    assert name in str(found)


@pytest.mark.parametrize("name", ["Some Accelerator 1", "NVIDIA RTX A1000"])
def test_an_unknown_gpu_has_none(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak(torch.device("cuda", 0), "bf16") is None


def test_a_cpus_peak_is_measured():
    found = peak(torch.device("cpu"), "fp32", tf32=True)
    assert (found.precision, found.source) == ("fp32", "measured")
    assert 1e8 < found.flops < 1e14

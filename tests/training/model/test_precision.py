"""The number formats of forward passes and of GPUs' matrix products."""

import torch

from training.model.precision import Precision


def test_autocast_is_for_amp_only():
    device = torch.device("cpu")
    a = torch.ones(2, 2)
    for name, expected in (("fp32", torch.float32), ("amp_bf16", torch.bfloat16)):
        with Precision(name).autocast(device):
            assert (a @ a).dtype == expected


def test_tf32_is_a_switch():
    try:
        Precision("fp32", tf32=True).apply()
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        Precision("fp32").apply()
    assert torch.get_float32_matmul_precision() == "highest"

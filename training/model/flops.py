"""What a model's training costs in arithmetic, and what a device could do at most: the two sides of MFU.

MFU (model FLOPs utilisation; Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B) is the arithmetic
that the model as published asks for, over what the device could have done in the same time. The backward pass counts
twice the forward pass. Work that is done twice (gradient checkpointing, a batch in parts) does not count twice, and
work that is spared (padding, patches left out by our own doing) counts as if it had been done: MFU compares speeds, and
may so exceed what a profiler of the hardware shows. It is the model's: what an objective sets beside it (a teacher,
slow towers, a fusion encoder) takes time and does not count.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.model.dropout import PatchDropout

if TYPE_CHECKING:
    from training.model.build import Towers

__all__ = ["Peak", "forward_flops", "mfu", "peak"]


def forward_flops(towers: Towers) -> int:
    """Floating point operations of the model's forward pass for one pair at full context; 2 per multiply-add.

    Matrix products, convolutions and attention are counted, on tensors without memory ("meta"), the image tower's with
    the patches that patch dropout leaves. The loss is not counted: it depends on the batch. To be called before the
    model is wrapped for several ranks.
    """
    model: Any = towers.model
    height, width = towers.image_size
    context = int(getattr(model, "context_length", 0) or model.text.context_length)
    dtype = next((weight.dtype for weight in model.visual.parameters() if weight.ndim == 4), torch.float32)
    images = torch.empty(1, 3, height, width, device="meta", dtype=dtype)
    texts = torch.zeros(1, context, dtype=torch.int64, device="meta")
    weightless = {name: value.detach().to("meta") for name, value in _tensors(model)}
    with torch.no_grad(), _plain(model), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(model, weightless, (images, texts))
    return int(counter.get_total_flops())


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


@contextmanager
def _plain(model: nn.Module) -> Iterator[None]:
    """``model`` as it evaluates, but for patch dropout, and attention in operations that the counter knows."""
    modes = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    for module in modes:
        if isinstance(module, PatchDropout):
            module.train(modes[module])
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes.items():
            module.training = mode


@dataclass(frozen=True)
class Peak:
    """FLOP/s a device can do at most in a precision, without sparsity, and where that is from."""

    device: str
    precision: str  # bf16, tf32, fp32
    flops: float
    source: str

    def __str__(self) -> str:
        return f"{self.flops / 1e12:.3g} TFLOP/s {self.precision} ({self.device}, {self.source})"


def mfu(forward: int, samples_per_s: float, of: Peak, devices: int = 1) -> float:
    """Model FLOPs utilisation, from 0 to 1, of ``devices`` that train at ``samples_per_s`` together."""
    return 3 * forward * samples_per_s / (of.flops * devices)


# Makers' data sheets, dense, TFLOP/s: bf16 with fp32 accumulation, TF32, fp32 outside tensor cores. The first that is
# part of the device's name counts, so the special come before the general.
_TFLOPS: dict[str, tuple[float, float, float]] = {
    "GB300": (2500, 1250, 80), "B300": (2250, 1125, 75),
    "GB200": (2500, 1250, 80), "B200": (2250, 1125, 75), "B100": (1750, 875, 60),
    "GH200": (989.4, 494.7, 66.9), "H200 NVL": (835.5, 417.7, 60), "H200": (989.4, 494.7, 66.9),
    "H100 NVL": (835.5, 417.7, 60), "H100 PCIe": (756, 378, 51.2), "H100": (989.4, 494.7, 66.9),
    "H800": (989.4, 494.7, 66.9), "H20": (148, 74, 44),
    "A100": (312, 156, 19.5), "A800": (312, 156, 19.5), "A30": (165, 82, 10.3),
    "A40": (149.7, 74.8, 37.4), "A10G": (70, 35, 31.5), "A10": (125, 62.5, 31.2), "A16": (17.9, 9, 4.5),
    "L40S": (362, 183, 91.6), "L40": (181, 90.5, 90.5), "L4": (121, 60, 30.3),
    "RTX PRO 6000": (503.8, 251.9, 125), "RTX 6000 Ada": (364.2, 182.1, 91.1), "RTX A6000": (154.8, 77.4, 38.7),
    "RTX 5090": (209.5, 104.8, 104.8), "RTX 5080": (112.6, 56.3, 56.3),
    "RTX 4090": (165.2, 82.6, 82.6), "RTX 4080": (97.5, 48.7, 48.7),
    "RTX 3090": (71, 35.6, 35.6), "RTX 3080": (59.5, 29.8, 29.8),
    "T4": (8.1, 8.1, 8.1), "V100": (15.7, 15.7, 15.7),  # no bf16 and no TF32 there
}  # fmt: skip


def peak(device: torch.device, precision: str, tf32: bool = False) -> Peak | None:
    """What ``device`` can do in ``precision`` (as :class:`training.model.precision.Precision` names them).

    A GPU's is its maker's figure, none if the GPU is not known; a CPU's is the best of some matrix products measured
    now with the threads there are (half a second).
    """
    kind = ("tf32" if tf32 else "fp32") if precision == "fp32" else "bf16"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        found = next((value for known, value in _TFLOPS.items() if re.search(rf"\b{known}\b", name)), None)
        return found and Peak(name, kind, found[("bf16", "tf32", "fp32").index(kind)] * 1e12, "data sheet")
    if device.type == "cpu":
        kind = "fp32" if kind == "tf32" else kind
        flops = _measure(torch.bfloat16 if kind == "bf16" else torch.float32)
        return Peak(f"CPU, {torch.get_num_threads()} threads", kind, flops, "measured")
    return None


def _measure(dtype: torch.dtype, size: int = 1536, seconds: float = 0.5) -> float:
    a, b = (torch.ones(size, size, dtype=dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best

"""FLOPs of a model's training and peak FLOP/s of devices: numerator and denominator of MFU.

MFU (model FLOPs utilisation; Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B) is the arithmetic of
the model as published, over what the device could have done in the same time. The backward pass counts twice the
forward pass. Recomputed work (gradient checkpointing, accumulation) does not count twice, and skipped work (padding)
counts as if it had been done: MFU compares speeds, so it may exceed the utilisation that a hardware profiler shows. It
counts the model only: what an objective adds (a teacher, momentum encoders, a fusion encoder) takes time and does not
count.
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
    """Count the FLOPs of the model's forward pass for one pair at full context, 2 per multiply-add.

    Matrix products, convolutions and attention are counted on meta tensors, the image tower's with the patches that
    patch dropout keeps. The loss is not counted, because it depends on the batch. Call it before the model is wrapped
    for several ranks.
    """
    model: Any = towers.model
    height, width = towers.image_size
    context = int(getattr(model, "context_length", 0) or model.text.context_length)
    images = torch.empty(1, 3, height, width, device="meta")
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
    """Put ``model`` in evaluation mode except for patch dropout, with attention as operations that can be counted."""
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
    """A device's peak FLOP/s in a precision, without sparsity, and the figure's source."""

    device: str
    precision: str  # bf16, tf32, fp32
    flops: float
    source: str

    def __str__(self) -> str:
        return f"{self.flops / 1e12:.3g} TFLOP/s {self.precision} ({self.device}, {self.source})"


def mfu(forward: float, samples_per_s: float, peak: float) -> float:
    """Return the model FLOPs utilisation, from 0 to 1, of devices that train at ``samples_per_s`` together.

    ``forward`` is in FLOPs per sample, ``peak`` in FLOP/s of all the devices.
    """
    return 3 * forward * samples_per_s / peak


# From the makers' data sheets, dense, TFLOP/s: bf16 with fp32 accumulation, TF32, fp32 outside tensor cores. The first
# entry that is part of the device's name counts, so special names come before general ones.
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
    """Return the peak of ``device`` in ``precision`` (a name of :class:`training.model.precision.Precision`).

    A GPU's is its maker's figure, None for an unknown GPU; a CPU's is the best of matrix products measured for half a
    second with the current number of threads.
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

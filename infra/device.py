"""The memory of tensors: kept by the CPU for the next ones, and copied to a GPU without waiting for it."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

__all__ = ["keep_freed_memory", "to_device"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return ``tensor`` on ``device``; to a GPU from pinned memory, else the copy would wait for the GPU's queue."""
    if tensor.device == device:
        return tensor
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors, as :data:`infra.cluster.TENSORS` does where a process is started."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl and macOS have none
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)

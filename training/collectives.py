"""What several ranks need of one another while a loss is computed; with one rank each of these does nothing.

All keep rank order, so that the global batch has one order whatever the number of ranks, and work on gloo and NCCL.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather", "rank", "size"]


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(features: Tensor) -> Tensor:
    """(b, ...) of every rank as (b * ranks, ...) in rank order, with the gradient that each rank sends back to each."""
    if size() == 1:
        return features
    gathered: Tensor = _Gather.apply(features)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:  # noqa: ANN401 - autograd's context is untyped
        gathered = features.new_empty(size() * len(features), *features.shape[1:])
        dist.all_gather_into_tensor(gathered, features.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        # What all ranks found for this rank's rows. An all-reduce, as gloo has no reduce-scatter everywhere.
        (gradient,) = gradients
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(size())[rank()]

"""What several ranks need of one another while a loss is computed; with one rank each of these does nothing.

All keep rank order, so that the global batch has one order whatever the number of ranks, and work on gloo and NCCL.
Every rank must call them equally often and with the same shapes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["all_gather", "all_reduce", "gather", "rank", "reduce_scatter", "size"]


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def all_gather(x: Tensor) -> Tensor:
    """(b, ...) of every rank as (b * ranks, ...) in rank order, without gradient."""
    if size() == 1:
        return x
    everyone = x.new_empty(size() * len(x), *x.shape[1:])
    dist.all_gather_into_tensor(everyone, x.detach().contiguous())
    return everyone


def reduce_scatter(x: Tensor) -> Tensor:
    """(b * ranks, ...) summed over ranks, of which each gets its own (b, ...)."""
    if size() == 1:
        return x
    if dist.get_backend() == "nccl":
        own = x.new_empty(len(x) // size(), *x.shape[1:])
        dist.reduce_scatter_tensor(own, x.contiguous())
        return own
    return all_reduce(x).chunk(size())[rank()].clone()  # gloo has no reduce-scatter everywhere


def all_reduce(x: Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    """``x`` of all ranks as one, by default their sum, without gradient."""
    if size() == 1:
        return x
    x = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, operation)
    return x


def gather(x: Tensor) -> Tensor:
    """As :func:`all_gather`, with the gradient that each rank sends back to each.

    A loss of one's own rows against gathered features is right only with it. Without, a rank's features would learn
    from the rows they are in and not from the columns: another direction, not a smaller step, and nothing would show
    it. So there is no such option here, as open_clip has in ``--local-loss`` without ``--gather-with-grad``.
    """
    if size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - autograd's context is untyped
        return all_gather(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        return reduce_scatter(gradients[0])  # what all ranks found for this rank's rows

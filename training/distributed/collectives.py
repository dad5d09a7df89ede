"""The collectives that losses use, on gloo and NCCL; with one rank each returns its input.

All keep rank order, so that the global batch has one order whatever the number of ranks. Every rank must call them
equally often and with the same shapes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["all_gather", "all_gather_with_grad", "all_reduce", "global_mean", "rank", "reduce_scatter", "size"]


def rank() -> int:
    """Return this process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_gather(x: Tensor) -> Tensor:
    """Concatenate every rank's (b, ...) to (b * ranks, ...) in rank order, without gradient."""
    if size() == 1:
        return x
    everyone = x.new_empty(size() * len(x), *x.shape[1:])
    dist.all_gather_into_tensor(everyone, x.detach().contiguous())
    return everyone


def reduce_scatter(x: Tensor) -> Tensor:
    """Sum (b * ranks, ...) over ranks and return this rank's rows of the sum, (b, ...)."""
    if size() == 1:
        return x
    if dist.get_backend() == "nccl":
        own = x.new_empty(len(x) // size(), *x.shape[1:])
        dist.reduce_scatter_tensor(own, x.contiguous())
        return own
    return all_reduce(x).chunk(size())[rank()].clone()  # not every gloo has reduce-scatter


def all_reduce(x: Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    """Reduce ``x`` over ranks, by default to the sum, without gradient."""
    if size() == 1:
        return x
    x = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, operation)
    return x


def global_mean(losses: Tensor, counts: Tensor) -> Tensor:
    """Return this rank's part of the mean loss over all ranks' terms, 0-D: the mean over ranks is that mean.

    ``losses`` (b,) are sums of terms by sample, ``counts`` (b,) their number of terms.
    """
    total = all_reduce(counts.detach().sum())
    return losses.sum() * size() / total.clamp(min=1)


def all_gather_with_grad(x: Tensor) -> Tensor:
    """Concatenate like :func:`all_gather`, and reduce-scatter the gradient in the backward pass.

    A loss of local rows against gathered features has the right gradient only this way. Without it, features would
    learn from the rows they are in and not from the columns: another direction, not a smaller step, and no metric would
    show it. So there is no option like open_clip's ``--local-loss`` without ``--gather-with-grad``.
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
        return reduce_scatter(gradients[0])  # the sum of all ranks' gradients in this rank's rows

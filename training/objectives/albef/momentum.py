"""Momentum contrast: slow towers, whose features of past batches are still worth comparing with, and soft targets.

He et al. 2019, https://arxiv.org/abs/1911.05722; soft targets: Li et al. 2021, https://arxiv.org/abs/2107.07651,
section 3.3.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor, nn

from training.distributed.parallel import local
from training.objectives.pairs import attach, spans

__all__ = ["Momentum", "Queue", "contrast"]

TILE = 2**24
"""Logits that exist at a time: 64 MB in fp32."""


class Momentum(nn.Module):
    """An exponential moving average of a module, ``average``; never trained, always in evaluation mode.

    It is kept in at least fp32: in bf16 most of what is added to it would be lost.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.average: Any = deepcopy(module).requires_grad_(False).eval()
        for weight in self.average.parameters():
            weight.data = weight.data.to(torch.promote_types(weight.dtype, torch.float32))

    def train(self, mode: bool = True) -> Self:
        return self  # targets should not be noisy

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float) -> None:
        """``average = decay * average + (1 - decay) * module``."""
        # FSDP shards both modules alike.
        mine, theirs = ([local(weight) for weight in side.parameters()] for side in (self.average, module))
        torch._foreach_lerp_(mine, [new.to(old.dtype) for old, new in zip(mine, theirs, strict=True)], 1 - decay)
        for buffer, value in zip(self.average.buffers(), module.buffers(), strict=True):
            buffer.copy_(value)


class Queue(nn.Module):
    """The last ``size`` features put in, a ring. It starts empty: nothing is compared with random features."""

    features: Tensor
    count: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, width))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # of all features ever put in

    @property
    def filled(self) -> Tensor:
        """What it holds, (at most ``size``, width), in the order of the ring."""
        return self.features[: int(self.count)]

    @torch.no_grad()
    def put(self, features: Tensor) -> None:
        """Let ``features`` (b, width) in, in their order, and as many of the oldest out."""
        size = len(self.features)
        places = torch.arange(len(features), device=features.device) + self.count
        if size:
            # Of more than fit only the last, so that no place is written twice.
            self.features[places[-size:] % size] = features[-size:].to(self.features.dtype)
        self.count += len(features)


def contrast(
    queries: Tensor, keys: Tensor, own: Tensor, scale: Tensor, *, teachers: Tensor | None, alpha: Tensor
) -> Tensor:
    """Mean cross-entropy of each query's similarities to all keys, against its own key and its teacher's similarities.

    ``queries`` and ``teachers`` are (b, d), ``keys`` (n, d), all of unit length; ``own`` (b,) is the number of each
    query's key. The target is ``(1 - alpha) * onehot(own) + alpha * softmax(scale * teacher @ keys.T)``, ``alpha``
    (b,); without teachers the first alone. Keys, teachers and target carry no gradient.

    Logits exist in tiles only: each is used for the loss and, at once, for its gradient, so that nothing but gradients
    waits for the backward pass, memory is (b + n) d and not b n, and no product is computed twice.
    """
    count, loss = len(queries), queries.new_zeros(())
    gradient = torch.empty_like(queries)  # in the scaled queries
    with torch.no_grad():
        for rows in spans(count, max(1, TILE // len(keys))):
            place = torch.arange(rows.stop - rows.start, device=own.device), own[rows]
            logits = scale * queries[rows] @ keys.T
            bottom = logits.logsumexp(-1)
            hard, wanted = torch.ones_like(bottom), logits[place]
            if teachers is not None:
                hard, soft = 1 - alpha[rows], (scale * teachers[rows] @ keys.T).softmax(-1).mul_(alpha[rows, None])
                wanted = hard * wanted + (soft * logits).sum(-1)
            error = logits.sub_(bottom[:, None]).exp_()
            if teachers is not None:
                error -= soft
            error[place] -= hard
            loss += (bottom - wanted).sum() / count
            torch.div(error @ keys, count, out=gradient[rows])
        gradients = scale * gradient, (queries * gradient).sum()
    return attach(loss, (queries, scale), gradients)

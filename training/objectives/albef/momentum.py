"""Momentum contrast: momentum encoders, queues of their features from past batches, and soft targets.

He et al. 2019, https://arxiv.org/abs/1911.05722; soft targets: Li et al. 2021, https://arxiv.org/abs/2107.07651,
section 3.3.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor, nn

from training.distributed.parallel import local
from training.objectives.pairs import slices, with_precomputed_gradient

__all__ = ["Momentum", "Queue", "contrast"]

TILE = 2**24
"""Logits that are held at a time: 64 MB in fp32."""


class Momentum(nn.Module):
    """A momentum encoder: ``average`` is the moving average of a module, never trained, always in evaluation mode."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.average: Any = deepcopy(module).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        return self  # targets must not be noisy

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float) -> None:
        """Set ``average = decay * average + (1 - decay) * module``, and copy buffers."""
        # FSDP shards both modules alike, so each rank updates its own parts.
        averages, weights = ([local(weight) for weight in each.parameters()] for each in (self.average, module))
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for buffer, value in zip(self.average.buffers(), module.buffers(), strict=True):
            buffer.copy_(value)


class Queue(nn.Module):
    """A ring buffer of the last ``size`` features. It starts empty: nothing is contrasted with random features."""

    features: Tensor
    count: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, width))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # of all features ever added

    @property
    def filled(self) -> Tensor:
        """The features it holds, (at most ``size``, width), in the order of the ring."""
        return self.features[: int(self.count)]

    @torch.no_grad()
    def put(self, features: Tensor) -> None:
        """Add ``features`` (b, width), replacing as many of the oldest."""
        size = len(self.features)
        places = torch.arange(len(features), device=features.device) + self.count
        if size:
            # If there are more than fit, only the last ones are written, so that no place is written twice.
            self.features[places[-size:] % size] = features[-size:].to(self.features.dtype)
        self.count += len(features)


def contrast(
    queries: Tensor, keys: Tensor, own: Tensor, scale: Tensor, *, teachers: Tensor | None, alpha: Tensor
) -> Tensor:
    """Return the mean cross-entropy between each query's softmax over all keys and a mixture of hard and soft targets.

    ``queries`` and ``teachers`` are (b, d), ``keys`` (n, d), all l2-normalised; ``own`` (b,) is the number of each
    query's key. The target is ``(1 - alpha) * onehot(own) + alpha * softmax(scale * teacher @ keys.T)``, ``alpha``
    (b,); without teachers it is the one-hot part alone. Keys, teachers and target carry no gradient.

    Logits are computed in tiles: each is used for the loss and at once for its gradient, so that only gradients are
    kept for the backward pass, memory is (b + n) d instead of b n, and no product is computed twice.
    """
    count, loss = len(queries), queries.new_zeros(())
    gradient = torch.empty_like(queries)  # with respect to the scaled queries
    with torch.no_grad():
        for rows in slices(count, max(1, TILE // len(keys))):
            place = torch.arange(rows.stop - rows.start, device=own.device), own[rows]
            logits = scale * queries[rows] @ keys.T
            bottom = logits.logsumexp(-1)
            hard, expected = torch.ones_like(bottom), logits[place]
            if teachers is not None:
                hard, soft = 1 - alpha[rows], (scale * teachers[rows] @ keys.T).softmax(-1).mul_(alpha[rows, None])
                expected = hard * expected + (soft * logits).sum(-1)
            error = logits.sub_(bottom[:, None]).exp_()
            if teachers is not None:
                error -= soft
            error[place] -= hard
            loss += (bottom - expected).sum() / count
            torch.div(error @ keys, count, out=gradient[rows])
        gradients = scale * gradient, (queries * gradient).sum()
    return with_precomputed_gradient(loss, (queries, scale), gradients)

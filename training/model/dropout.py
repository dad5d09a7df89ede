"""Dropout that draws the same for a sample on any number of workers.

The layers of torch, open_clip and timm draw from the worker's generator, so the number of workers would decide what is
left out. Here the draw belongs to the sample's position in the run, like its crop.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Dropout", "PatchDropout", "Position"]


class Position:
    """Samples seen before the first of the images that come next, counted over the global batch."""

    def __init__(self) -> None:
        self.samples = 0

    def __deepcopy__(self, _: object) -> Self:
        return self  # copies of a model (moving averages) see the same images


class PatchDropout(nn.Module):
    """Keeps a random ``1 - prob`` of the tokens after the first ``prefix``; in evaluation all of them.

    It saves that part of the image tower's work (FLIP; Li et al. 2022, https://arxiv.org/abs/2212.00794).
    """

    def __init__(self, prob: float, prefix: int, seed: int, position: Position) -> None:
        super().__init__()
        self.prob, self.prefix, self.seed, self.position = prob, prefix, seed, position

    def forward(self, x: Tensor) -> Tensor:
        """(b, prefix + n, d) -> (b, prefix + max(1, n (1 - prob)), d)."""
        if not self.training:
            return x
        own, patches = x[:, : self.prefix], x[:, self.prefix :]
        count = patches.shape[1]
        noise = _noise([self.seed, 0], 2, self.position, len(x), count, x.device)
        kept = noise.topk(max(1, int(count * (1 - self.prob))), dim=1).indices
        return torch.cat([own, patches.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))], dim=1)


class Dropout(nn.Module):
    """Zeroes a random ``prob`` of a sample's numbers and scales the others up, to the same mean; not in evaluation.

    If ``whole``, all or none of a sample's: what a branch beside a residual path adds (stochastic depth; Huang et al.
    2016, https://arxiv.org/abs/1603.09382). ``layer`` numbers the layers that draw.
    """

    def __init__(self, prob: float, whole: bool, seed: int, layer: int, position: Position) -> None:
        super().__init__()
        self.prob, self.whole, self.seed, self.layer, self.position = prob, whole, seed, layer, position

    def forward(self, x: Tensor) -> Tensor:
        """(b, ...) -> (b, ...)."""
        if not self.training:
            return x
        numbers = 1 if self.whole else x[0].numel()
        noise = _noise([self.seed, self.layer], 3, self.position, len(x), numbers, x.device)
        shape = (len(x), *(1 for _ in x.shape[1:])) if self.whole else x.shape
        kept: Tensor = (noise >= self.prob).view(shape).to(x.dtype)
        return x * kept / (1 - self.prob)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _noise(key: list[int], stream: int, position: Position, samples: int, width: int, device: torch.device) -> Tensor:
    """Numbers from [0, 1) for each of ``samples`` samples from ``position`` on: (samples, width), float64."""
    # A counter-based generator (Philox) can be entered at any sample's numbers; a count yields four.
    counts = -(-width // 4)
    philox = np.random.Philox(key=key, counter=[position.samples * counts, stream, 0, 0])
    noise = torch.from_numpy(np.random.Generator(philox).random((samples, 4 * counts))[:, :width])
    return (noise.pin_memory() if device.type == "cuda" else noise).to(device, non_blocking=True)

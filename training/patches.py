"""Patch dropout that draws the same for a sample on any number of workers.

A part of an image's patches is left out in training (FLIP; Li et al. 2022, https://arxiv.org/abs/2212.00794), which
saves that part of the image tower's work. open_clip's and timm's own modules draw from the worker's generator; here the
draw belongs to the sample's position in the run, like its crop.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["PatchDropout", "Position"]


class Position:
    """Samples seen before the first of the images that come next, counted over the global batch."""

    def __init__(self) -> None:
        self.samples = 0

    def __deepcopy__(self, _: object) -> Self:
        return self  # copies of a model (moving averages) see the same images


class PatchDropout(nn.Module):
    """Keeps a random ``1 - prob`` of the tokens after the first ``prefix``; in evaluation all of them."""

    def __init__(self, prob: float, prefix: int, seed: int, position: Position) -> None:
        super().__init__()
        self.prob, self.prefix, self.seed, self.position = prob, prefix, seed, position

    def forward(self, x: Tensor) -> Tensor:
        """(b, prefix + n, d) -> (b, prefix + max(1, n (1 - prob)), d)."""
        if not self.training:
            return x
        own, patches = x[:, : self.prefix], x[:, self.prefix :]
        count = patches.shape[1]
        noise = torch.from_numpy(self._noise(len(x), count))
        noise = (noise.pin_memory() if x.is_cuda else noise).to(x.device, non_blocking=True)
        kept = noise.topk(max(1, int(count * (1 - self.prob))), dim=1).indices
        return torch.cat([own, patches.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))], dim=1)

    def _noise(self, images: int, patches: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        # A counter-based generator (Philox) can be entered at any sample's numbers; a count yields four.
        per_image = -(-patches // 4)
        philox = np.random.Philox(key=self.seed, counter=[self.position.samples * per_image, 2, 0, 0])
        return np.random.Generator(philox).random((images, 4 * per_image))[:, :patches]

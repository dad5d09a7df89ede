"""Patches to mask, in blocks: single patches could be filled in from their neighbours.

Bao et al. 2021, https://arxiv.org/abs/2106.08254, algorithm 1, with an exact number of patches for each image,
and blocks that may reach beyond its edges.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["BLOCKS", "draws_for", "masked_patches"]

BLOCKS = 12
"""Rectangles that are placed at most; what they leave open is made up of single patches."""

_LEAST, _MOST = 0.08, 0.3  # area of a rectangle, in parts of the image
_ASPECT = 0.3  # height by width lies between this and its inverse


def draws_for(grid: tuple[int, int]) -> int:
    """Return how many uniform numbers :func:`masked_patches` takes for an image of so many patches down and across."""
    return 4 * BLOCKS + grid[0] * grid[1]


def masked_patches(draws: Tensor, grid: tuple[int, int], rate: float) -> Tensor:
    """Choose ``round(rate * patches)`` patches of each image, at least one, and leave at least one: (b, patches) bool.

    ``draws`` (b, :func:`draws_for`) are uniform numbers.
    """
    height, width = grid
    count = min(max(1, round(rate * height * width)), height * width - 1)
    shape, noise = draws[:, : 4 * BLOCKS].view(-1, BLOCKS, 4), draws[:, 4 * BLOCKS :]
    area = (_LEAST + (_MOST - _LEAST) * shape[..., 0]) * height * width
    aspect = torch.exp((2 * shape[..., 1] - 1) * math.log(1 / _ASPECT))
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    # They may reach beyond the edges: within them, corners would hardly ever be masked.
    top = (shape[..., 2] * (height + tall - 1)).floor() - (tall - 1)
    left = (shape[..., 3] * (width + wide - 1)).floor() - (wide - 1)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    inside = _between(rows, top, tall) & _between(columns, left, wide)  # (b, blocks, height, width)
    # The patches of the first rectangle go first, then those of the second, and so on; chance decides within one.
    order = torch.arange(BLOCKS, 0, -1)[:, None, None] * inside
    rank = order.amax(dim=1).flatten(1) + noise
    chosen = torch.zeros(rank.shape, dtype=torch.bool)
    return chosen.scatter_(1, rank.topk(count, dim=1).indices, True)


def _between(places: Tensor, first: Tensor, length: Tensor) -> Tensor:
    begin, end = first[..., None, None], (first + length)[..., None, None]
    return (places >= begin) & (places < end)

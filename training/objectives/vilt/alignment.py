"""Word-patch alignment: what it costs to carry the words of a caption to the patches of an image.

Chen et al. 2020, https://arxiv.org/abs/1909.11740, section 3.2, as Kim et al. 2021, https://arxiv.org/abs/2102.03334,
take it up: optimal transport by inexact proximal points (IPOT; Xie et al. 2018, https://arxiv.org/abs/1802.04307,
algorithm 1), with cosines as costs. The plan is no part of the gradient, as there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.objectives.base import l2_normalise

__all__ = ["alignment_cost", "transport"]

BETA = 0.5
STEPS = 50
"""ViLT's step size of a proximal point, and number of them, each with one iteration of Sinkhorn's."""


def alignment_cost(words: Tensor, real: Tensor, patches: Tensor) -> Tensor:
    """Return the cost (b,), between 0 and 2, of carrying ``words`` (b, m, d) to ``patches`` (b, n, d).

    All words that are ``real`` (b, m) weigh the same, and so do all patches; a caption without words costs nothing. At
    least fp32, also under autocast.
    """
    with torch.autocast(words.device.type, enabled=False):
        cost = 1 - l2_normalise(words) @ l2_normalise(patches).mT
        return (cost * transport(cost.detach(), real)).sum((1, 2))


@torch.no_grad()
def transport(cost: Tensor, real: Tensor, beta: float = BETA, steps: int = STEPS) -> Tensor:
    """Return a plan (b, m, n) that carries the ``real`` words (b, m) to all patches at little ``cost`` (b, m, n).

    Rows sum to 1 / words, or to 0 where there is no word; columns come to 1 / patches, and the cost to the least
    there is, the nearer the more ``steps`` are taken.
    """
    mass = real / real.sum(1, keepdim=True).clamp(min=1).to(cost.dtype)  # (b, m)
    patches = cost.shape[2]
    kernel = torch.exp(-cost / beta) * real[:, :, None]
    plan, of_words = torch.ones_like(cost), mass[:, :, None]
    least = torch.finfo(cost.dtype).tiny  # what divides by it is 0 itself: there is no word
    for _ in range(steps):
        q = kernel * plan
        of_patches = 1 / (patches * (q.mT @ of_words)).clamp(min=least)  # (b, n, 1)
        of_words = mass[:, :, None] / (q @ of_patches).clamp(min=least)
        plan = of_words * q * of_patches.mT
    return plan

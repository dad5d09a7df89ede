"""VSE++'s objective: a match must beat its hardest negative in the global batch by a margin.

Faghri et al. 2018, https://arxiv.org/abs/1707.05612. There is no temperature: the hinge acts on cosines. At first the
hardest negative is hardly harder than the rest, and towers trained on it alone from the start can collapse to a point.
So the loss may begin as the mean over all negatives and move to the hardest one gradually (VSE-inf; Chen et al. 2021,
https://arxiv.org/abs/2011.04305, switches after an epoch).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.distributed.collectives import all_gather_with_grad, rank
from training.objectives.base import Objective
from training.objectives.pairs import eager_fp32, logits_per_tile, slices

if TYPE_CHECKING:
    from training.config import Config as Run
    from training.objectives.vsepp.config import Config

__all__ = ["VSEPP", "hinge"]


class VSEPP(Objective):
    """The objective: hinge loss over the global batch, in both directions.

    ``config.margin`` is in cosine; ``config.warmup`` is the number of samples over which the weight moves
    from all negatives to the hardest.
    """

    learnt = ()

    def __init__(self, model: nn.Module, config: Config, run: Run, *_: object) -> None:
        super().__init__(model)
        self.margin, self.warmup, self.batch_size = config.margin, config.warmup, run.batch_size

    @property
    def hardness(self) -> float:
        """Weight of the hardest negative in this batch, in [0, 1]; the rest is the weight of all negatives."""
        seen = self.position // self.batch_size * self.batch_size  # before the batch, equal in all its parts
        return min(1.0, seen / self.warmup) if self.warmup else 1.0

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        images, texts = outputs["image"], outputs["text"]
        hardness = self.hardness
        return {"loss": hinge(images, texts, self.margin, hardness) + hinge(texts, images, self.margin, hardness)}


@eager_fp32
def hinge(queries: Tensor, keys: Tensor, margin: float, hardness: float = 1.0, tile: int | None = None) -> Tensor:
    """Return the hinge loss of this rank's ``queries``; the mean over ranks is the loss of the whole batch.

    ``queries`` and their matching ``keys`` are (b, d), with the same b on every rank; all other keys are negatives. A
    negative costs ``margin`` plus its cosine with the query minus the cosine of the matching pair, if that is positive.
    A query's loss is the largest of these costs (``hardness`` 1; VSE++), their mean (0; VSE, whose sum grows with the
    batch), or a mixture. At most ``tile`` cosines are held at a time; the backward pass recomputes them.
    """
    all_keys = all_gather_with_grad(keys)
    positives = (queries * keys).sum(1)
    height = max(1, (tile or logits_per_tile(queries.device)) // len(all_keys))
    costs = [
        checkpoint(
            _costs,
            margin - positives[rows],
            queries[rows],
            all_keys,
            rank() * len(queries) + rows.start,
            hardness,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for rows in slices(len(queries), height)
    ]
    return torch.cat(costs).mean()


def _costs(slack: Tensor, queries: Tensor, all_keys: Tensor, own: int, hardness: float) -> Tensor:
    """Return the losses (a,) of queries (a, d) whose matching keys are ``all_keys[own:own + a]``."""
    costs = (queries @ all_keys.T + slack[:, None]).relu()
    negatives = torch.ones_like(costs, dtype=torch.bool)
    negatives.diagonal(own).fill_(False)
    costs = costs * negatives
    # amax divides the gradient evenly among equally hard negatives, so their order does not matter.
    return hardness * costs.amax(1) + (1 - hardness) * costs.sum(1) / (len(all_keys) - 1)

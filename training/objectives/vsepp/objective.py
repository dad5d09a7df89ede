"""VSE++'s objective: a match must beat its hardest negative in the global batch by a margin.

Faghri et al. 2018, https://arxiv.org/abs/1707.05612. No temperature: the hinge acts on cosines. In the beginning the
hardest negative is hardly harder than the rest and says little, and towers that follow it from the start can collapse
to one point. So the loss may begin as the mean over all negatives and go over to the hardest one gradually (VSE-inf,
Chen et al. 2021, https://arxiv.org/abs/2011.04305, switches after an epoch).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.distributed.collectives import gather, rank
from training.objectives.base import Objective
from training.objectives.pairs import apart, most_logits, spans

if TYPE_CHECKING:
    from training.objectives.vsepp.config import Config

__all__ = ["VSEPP", "hinge"]


class VSEPP(Objective):
    """Hinge loss over the global batch, both ways. ``config.margin`` is in cosine; ``config.warmup`` is the number of
    samples over which the weight moves from all negatives to the hardest."""

    learnt = ()

    def __init__(self, model: nn.Module, config: Config, batch_size: int) -> None:
        super().__init__(model)
        self.margin, self.warmup, self.batch_size = config.margin, config.warmup, batch_size

    @property
    def hardness(self) -> float:
        """Weight of the hardest negative in this batch; the rest is all negatives'."""
        seen = self.position // self.batch_size * self.batch_size  # before the batch, on every rank and in every part
        return min(1.0, seen / self.warmup) if self.warmup else 1.0

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        images, texts = outputs["image"], outputs["text"]
        hardness = self.hardness
        return {"loss": hinge(images, texts, self.margin, hardness) + hinge(texts, images, self.margin, hardness)}


@apart
def hinge(queries: Tensor, keys: Tensor, margin: float, hardness: float = 1.0, tile: int | None = None) -> Tensor:
    """Mean over this rank's ``queries`` (b, d) of what the keys of others come too close; its mean over ranks counts.

    ``keys`` (b, d) are the queries' own, the same b on every rank. A negative costs ``margin`` plus its cosine with the
    query minus the cosine of query and own key, if that is positive; of these costs the loss takes the largest
    (``hardness`` 1; VSE++), their mean (0; VSE, whose sum grows with the batch), or a mixture. At most ``tile`` cosines
    are held at a time; the backward pass computes them again.
    """
    everyone = gather(keys)
    positives = (queries * keys).sum(1)
    height = max(1, (tile or most_logits(queries.device)) // len(everyone))
    costs = [
        checkpoint(
            _costs,
            margin - positives[rows],
            queries[rows],
            everyone,
            rank() * len(queries) + rows.start,
            hardness,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for rows in spans(len(queries), height)
    ]
    return torch.cat(costs).mean()


def _costs(slack: Tensor, queries: Tensor, everyone: Tensor, own: int, hardness: float) -> Tensor:
    """(a,) of queries (a, d) whose own keys are ``everyone[own:own + a]``."""
    costs = (queries @ everyone.T + slack[:, None]).relu()
    negatives = torch.ones_like(costs, dtype=torch.bool)
    negatives.diagonal(own).fill_(False)
    costs = costs * negatives
    # With equally hard negatives, amax divides the gradient among them: it does not matter who comes first.
    return hardness * costs.amax(1) + (1 - hardness) * costs.sum(1) / (len(everyone) - 1)

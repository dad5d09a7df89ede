"""SigLIP's objective: every pair of the global batch is judged by itself, matching or not, by a sigmoid.

Zhai et al. 2023, https://arxiv.org/abs/2303.15343. Almost no pair matches, so the learnt bias starts at -10: without it
the first steps would do nothing but push everything apart. From scratch it is less stable than InfoNCE.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from infra.errors import ConfigError
from training.objectives.base import Objective
from training.objectives.pairs import Pairs, apart, attach

__all__ = ["SigLIP", "pairwise_sigmoid"]


class SigLIP(Objective):
    """Pairwise sigmoid loss over the global batch, with learnt temperature and bias.

    Raises ConfigError for a model that has no ``logit_bias``: it was configured without ``model_settings``.
    """

    learnt = ("logit_scale", "logit_bias")

    def __init__(self, model: nn.Module) -> None:
        if getattr(model, "logit_bias", None) is None:
            raise ConfigError(
                "SigLIP needs a model whose logits have a bias",
                expected="init_logit_bias in the model's configuration",
                fix='add "init_logit_bias": -10 there',
            )
        super().__init__(model)

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": pairwise_sigmoid(outputs["image"], outputs["text"], outputs["scale"], outputs["bias"])}


@apart
def pairwise_sigmoid(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, tile: int | None = None) -> Tensor:
    """This rank's share of SigLIP's loss: its images' pairs, summed, by their number; the mean over ranks is the whole.

    ``images`` and ``texts`` are (b, d), of unit length, the same b on every rank; ``scale`` and ``bias`` are 0-D. One
    pass over the tiles of at most ``tile`` logits: no pair needs to know of another.
    """
    pairs = Pairs(images, texts, scale, tile)
    loss, to_bias = pairs.images.new_zeros(()), pairs.images.new_zeros(())
    for each in pairs:
        # -log(sigmoid(x)) of a match, -log(sigmoid(-x)) of all others: with the matches' sign turned one formula.
        logits = each.logits.add_(bias.detach())
        each.matches(logits).neg_()
        loss -= F.logsigmoid(-logits).sum()
        if pairs.wanted:
            gradient = logits.sigmoid_()
            each.matches(gradient).neg_()
            to_bias += gradient.sum()
            pairs.pull(each, gradient)
    share = 1 / len(images)
    loss = loss * share
    if not pairs.wanted:
        return loss
    return attach(loss, (images, texts, scale, bias), (*pairs.gradients(share), to_bias * share))

"""SigLIP's objective: each pair of the global batch is classified independently, matching or not, by a sigmoid.

Zhai et al. 2023, https://arxiv.org/abs/2303.15343. Almost no pair matches, so the learnt bias starts at -10: without it
the first steps would only push all features apart. From scratch it is less stable than InfoNCE.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from infra.errors import ConfigError
from training.objectives.base import Objective
from training.objectives.pairs import Pairs, eager_fp32, with_precomputed_gradient

__all__ = ["SigLIP", "pairwise_sigmoid"]


class SigLIP(Objective):
    """The objective: pairwise sigmoid loss over the global batch, with learnt temperature and bias.

    Raises ConfigError for a model without ``logit_bias``, which was configured without ``model_settings``.
    """

    learnt = ("logit_scale", "logit_bias")

    def __init__(self, model: nn.Module, *_: object) -> None:
        if getattr(model, "logit_bias", None) is None:
            raise ConfigError(
                "SigLIP needs a model whose logits have a bias",
                expected="init_logit_bias in the model's configuration",
                fix='add "init_logit_bias": -10 to the model configuration',
            )
        super().__init__(model)

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": pairwise_sigmoid(outputs["image"], outputs["text"], outputs["scale"], outputs["bias"])}


@eager_fp32
def pairwise_sigmoid(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, tile: int | None = None) -> Tensor:
    """Return this rank's part of SigLIP's loss: the sum over its images' pairs, divided by the number of its images.

    The mean over ranks is the loss of the whole batch. ``images`` and ``texts`` are (b, d), l2-normalised, with the
    same b on every rank; ``scale`` and ``bias`` are 0-D. One pass over tiles of at most ``tile`` logits suffices,
    because pairs do not depend on one another.
    """
    pairs = Pairs(images, texts, scale, tile)
    loss, bias_gradient = pairs.images.new_zeros(()), pairs.images.new_zeros(())
    for each in pairs:
        # -log(sigmoid(x)) of a match, -log(sigmoid(-x)) of others: one formula once the sign of matches is flipped.
        logits = each.logits.add_(bias.detach())
        each.matches(logits).neg_()
        loss -= F.logsigmoid(-logits).sum()
        if pairs.needs_gradient:
            gradient = logits.sigmoid_()
            each.matches(gradient).neg_()
            bias_gradient += gradient.sum()
            pairs.add_gradient(each, gradient)
    factor = 1 / len(images)
    loss = loss * factor
    if not pairs.needs_gradient:
        return loss
    return with_precomputed_gradient(
        loss, (images, texts, scale, bias), (*pairs.gradients(factor), bias_gradient * factor)
    )

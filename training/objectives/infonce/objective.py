"""CLIP's objective: each image must find its text among all texts of the global batch, and each text its image.

Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.3.
"""

from __future__ import annotations

from torch import Tensor

from training.objectives.base import Objective
from training.objectives.pairs import Pairs, Softmaxes, eager_fp32, with_precomputed_gradient

__all__ = ["InfoNCE", "info_nce"]


class InfoNCE(Objective):
    """The objective: symmetric InfoNCE over the global batch, with a learnt temperature."""

    contrastive = "loss"

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": info_nce(outputs["image"], outputs["text"], outputs["scale"])}


@eager_fp32
def info_nce(images: Tensor, texts: Tensor, scale: Tensor, tile: int | None = None) -> Tensor:
    """Return this rank's part of the symmetric InfoNCE loss; the mean over ranks is the loss of the whole batch.

    ``images`` and ``texts`` are (b, d), l2-normalised, with the same b on every rank; ``scale`` is 0-D. At most
    ``tile`` of the b x (b * ranks) logits are held at a time.
    """
    # The first pass finds the normalisers and the loss, the second the gradient.
    pairs = Pairs(images, texts, scale, tile)
    softmaxes = Softmaxes(pairs)
    loss = softmaxes.cross_entropy.mean()
    if not pairs.needs_gradient:
        return loss
    for each in pairs:
        gradient = softmaxes.probabilities(each)
        each.matches(gradient).sub_(2)
        pairs.add_gradient(each, gradient)
    return with_precomputed_gradient(loss, (images, texts, scale), pairs.gradients(1 / (2 * len(images))))

"""CLIP's objective: each image must find its text among all texts of the global batch, and each text its image.

Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.3.
"""

from __future__ import annotations

from torch import Tensor

from training.objectives.base import Objective
from training.objectives.pairs import Pairs, Softmaxes, apart, attach

__all__ = ["InfoNCE", "info_nce"]


class InfoNCE(Objective):
    """Symmetric InfoNCE over the global batch, with a learnt temperature."""

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": info_nce(outputs["image"], outputs["text"], outputs["scale"])}


@apart
def info_nce(images: Tensor, texts: Tensor, scale: Tensor, tile: int | None = None) -> Tensor:
    """This rank's share of the symmetric InfoNCE loss; the mean over ranks is the loss of the whole batch.

    ``images`` and ``texts`` are (b, d), of unit length, the same b on every rank; ``scale`` is 0-D. Of the
    b x (b * ranks) logits there are never more at a time than those of a tile, ``tile`` many.
    """
    pairs = Pairs(images, texts, scale, tile)
    softmaxes = Softmaxes(pairs)
    loss = softmaxes.cross_entropy.mean()
    if not pairs.wanted:
        return loss
    for each in pairs:
        gradient = softmaxes.both(each)
        each.matches(gradient).sub_(2)
        pairs.pull(each, gradient)
    return attach(loss, (images, texts, scale), pairs.gradients(1 / (2 * len(images))))

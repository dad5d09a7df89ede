"""CLIP's objective: each image must find its text among all texts of the global batch, and each text its image.

Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.collectives import gather, rank
from training.objectives import Objective

__all__ = ["InfoNCE", "info_nce"]


class InfoNCE(Objective):
    """Symmetric InfoNCE over the global batch, with a learnt temperature."""

    def loss(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": info_nce(outputs["image"], outputs["text"], outputs["scale"])}


def info_nce(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """This rank's rows of the symmetric InfoNCE loss; the mean over ranks is the loss of the whole batch.

    ``images`` and ``texts`` are (b, d), of unit length, the same b on every rank. A rank compares its own b rows with
    the columns of all ranks, so work and memory per rank are b x (b * ranks); the gradient is complete because it
    flows back through the gather.
    """
    with torch.autocast(images.device.type, enabled=False):
        own = torch.arange(len(images), device=images.device) + rank() * len(images)
        rows = F.cross_entropy(scale * images @ gather(texts).T, own)
        columns = F.cross_entropy(scale * texts @ gather(images).T, own)
        return (rows + columns) / 2

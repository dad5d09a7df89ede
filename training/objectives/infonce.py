"""CLIP's objective: each image must find its text among all texts of the global batch, and each text its image.

Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.3.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["InfoNCE", "gather", "info_nce"]

MAX_LOGIT_SCALE = math.log(100)


class InfoNCE(nn.Module):
    """Symmetric InfoNCE over the global batch, with a learnt temperature."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        image_features = self.model.encode_image(images)
        text_features = self.model.encode_text(texts)
        # Logits reach 100, where bf16 is a quarter apart: from here on at least fp32.
        with torch.autocast(images.device.type, enabled=False):
            return info_nce(_unit(image_features), _unit(text_features), self.model.logit_scale.exp())

    @torch.no_grad()
    def after_step(self) -> None:
        self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


def info_nce(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """This rank's rows of the symmetric InfoNCE loss; the mean over ranks is the loss of the whole batch.

    ``images`` and ``texts`` are (b, d), of unit length, the same b on every rank. A rank compares its own b rows with
    the columns of all ranks, so work and memory per rank are b x (b * ranks); the gradient is complete because it
    flows back through the gather.
    """
    own = torch.arange(len(images), device=images.device) + _rank() * len(images)
    return (
        F.cross_entropy(scale * images @ gather(texts).T, own) + F.cross_entropy(scale * texts @ gather(images).T, own)
    ) / 2


def gather(features: Tensor) -> Tensor:
    """(b, d) of every rank as (b * ranks, d) in rank order, with the gradient that each rank sends back to each."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return features
    gathered: Tensor = _Gather.apply(features)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:  # noqa: ANN401 - autograd's context is untyped
        gathered = features.new_empty(dist.get_world_size() * len(features), *features.shape[1:])
        dist.all_gather_into_tensor(gathered, features.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        # What all ranks found for this rank's rows. An all-reduce, as gloo has no reduce-scatter everywhere.
        (gradient,) = gradients
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)

"""The optimizer and its learning rate. Both know samples seen and nothing of steps, epochs or workers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from training.train import Config

__all__ = ["adamw", "learning_rate"]


def learning_rate(config: Config, samples: float, total: int) -> float:
    """The rate at ``samples`` seen of ``total``: linear warm-up, then constant or half a cosine down to zero.

    The loop asks for the middle of each batch, so neither the first nor the last step is spent on a rate of zero.
    """
    if samples < config.warmup:
        return config.lr * samples / config.warmup
    if config.schedule == "constant":
        return config.lr
    way = (samples - config.warmup) / max(1, total - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, way)))


def adamw(model: nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW for an open_clip ``model``, or a module that holds one as ``model``.

    Weight decay is for matrices only: vectors and scalars are gains, biases and the logit scale. Each group's
    ``share`` is its part of the learning rate: ``text_lr / lr`` for the text tower, 1 for the rest.
    """
    text_share = 1.0 if config.text_lr is None else config.text_lr / config.lr
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            of_text = not name.removeprefix("model.").startswith(("visual.", "logit_"))
            decay = config.weight_decay if weight.ndim >= 2 else 0.0
            groups.setdefault((decay, text_share if of_text else 1.0), []).append(weight)
    return torch.optim.AdamW(
        [{"params": weights, "weight_decay": decay, "share": share} for (decay, share), weights in groups.items()],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )

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
    """AdamW with weight decay on matrices only: vectors and scalars are gains, biases and the logit scale."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if weight.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)

"""The optimizer and its learning rate. Both know samples seen and nothing of steps, epochs or workers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn
from torch.distributed.tensor import DTensor

from training.model.precision import AdamW

if TYPE_CHECKING:
    from training.config import Config

__all__ = ["Schedule", "adamw", "learning_rate"]


@dataclass(frozen=True)
class Schedule:
    """A learning rate over a run: linear warm-up, then half a cosine or a constant, then perhaps a cooldown.

    The cooldown (WSD; Hägele et al. 2024, https://arxiv.org/abs/2405.18392) takes the rate of the last ``cooldown``
    samples to ``floor``, by a straight line or by 1 - sqrt, their best. A run with it can be prolonged from a
    checkpoint before its cooldown, which one with a cosine cannot.
    """

    peak: float
    warmup: int = 0  # samples
    shape: str = "cosine"  # cosine, constant
    floor: float = 0.0  # the least rate after the warm-up, as a part of the peak
    cooldown: int = 0  # samples
    cooldown_shape: str = "1-sqrt"  # linear, 1-sqrt

    def rate(self, samples: float, total: int) -> float:
        """The rate at ``samples`` seen of ``total``.

        The loop asks for the middle of each batch, so neither the first nor the last step is spent on a rate of zero.
        """
        if samples < self.warmup:
            return self.peak * samples / self.warmup
        if self.shape == "cosine":
            way = (samples - self.warmup) / max(1, total - self.warmup)
            part = 0.5 * (1 + math.cos(math.pi * min(1.0, way)))
        else:
            way = max(0.0, 1 - (total - samples) / self.cooldown) if self.cooldown else 0.0
            part = 1 - (math.sqrt(way) if self.cooldown_shape == "1-sqrt" else way)
        return self.peak * (self.floor + (1 - self.floor) * part)


def learning_rate(config: Config, samples: float, total: int) -> float:
    """The rate at ``samples`` seen of ``total`` by the fields of ``config``."""
    schedule = Schedule(
        config.lr, config.warmup, config.schedule, config.lr_floor, config.cooldown, config.cooldown_shape
    )
    return schedule.rate(samples, total)


def adamw(model: nn.Module, config: Config) -> AdamW:
    """AdamW for an open_clip ``model``, or a module that holds one as ``model``.

    Weight decay is for matrices only: vectors and scalars are gains, biases and the logit scale. Each group's
    ``share`` is its part of the learning rate: ``text_lr / lr`` for the text tower, 1 for the rest, times
    ``config.layer_decay`` for each layer that lies between a weight and its tower's output (for fine-tuning). What is
    locked has no group.
    """
    text_share = 1.0 if config.text_lr is None else config.text_lr / config.lr
    named = [(name.removeprefix("model."), weight) for name, weight in model.named_parameters()]
    depth = {
        tower: max(_layer(name) for name, weight in named if weight.requires_grad and _of_text(name) is tower)
        for tower in {_of_text(name) for name, weight in named if weight.requires_grad}
    }
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, weight in named:
        if weight.requires_grad:
            share = text_share if _of_text(name) else 1.0
            if config.layer_decay != 1:
                share *= config.layer_decay ** max(0, depth[_of_text(name)] - _layer(name, depth[_of_text(name)]))
            decay = config.weight_decay if weight.ndim >= 2 and "bias" not in name else 0.0
            # What FSDP shards and what it does not cannot move in one kernel.
            groups.setdefault((decay, share, isinstance(weight, DTensor)), []).append(weight)
    return AdamW(
        [{"params": weights, "weight_decay": decay, "share": share} for (decay, share, _), weights in groups.items()],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def _of_text(name: str) -> bool:
    return not name.startswith(("visual.", "logit_", "fusion."))  # ALBEF's encoder learns at the full rate


_BLOCK = re.compile(r"(?:resblocks|blocks|layers|layer)\.(\d+)\.")
_INPUT = ("embedding", "conv1", "ln_pre", "patch_embed", "cls_token", "pos_embed", "stem")


def _layer(name: str, depth: int = 0) -> int:
    """How far a weight is from its tower's input: 0 for embeddings, 1 for the first block, ``depth`` for the head."""
    if found := _BLOCK.search(name):
        return int(found[1]) + 1
    return 0 if any(part in name for part in _INPUT) else depth

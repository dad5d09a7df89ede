"""The optimizer and its learning-rate schedule, which counts samples seen, not steps, epochs or workers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn, optim
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from training.config import Config

__all__ = ["Schedule", "adamw", "learning_rate"]


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run: linear warm-up, then half a cosine, or a constant with an optional cooldown.

    The cooldown (WSD; Hägele et al. 2024, https://arxiv.org/abs/2405.18392) lowers the rate to ``floor`` over the last
    ``cooldown`` samples, linearly or by 1 - sqrt, the authors' best. Such a run can be prolonged from a checkpoint
    before its cooldown, which a run with a cosine cannot.
    """

    peak: float
    warmup: int = 0  # samples
    shape: str = "cosine"  # cosine, constant
    floor: float = 0.0  # the lowest rate after the warm-up, as a fraction of the peak
    cooldown: int = 0  # samples
    cooldown_shape: str = "1-sqrt"  # linear, 1-sqrt

    def rate(self, samples: float, total: int) -> float:
        """Return the rate at ``samples`` seen of ``total``.

        The loop evaluates it at the middle of each batch, so neither the first nor the last step has a rate of zero.
        """
        if samples < self.warmup:
            return self.peak * samples / self.warmup
        if self.shape == "cosine":
            progress = (samples - self.warmup) / max(1, total - self.warmup)
            fraction = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        else:
            progress = max(0.0, 1 - (total - samples) / self.cooldown) if self.cooldown else 0.0
            fraction = 1 - (math.sqrt(progress) if self.cooldown_shape == "1-sqrt" else progress)
        return self.peak * (self.floor + (1 - self.floor) * fraction)


def learning_rate(config: Config, samples: float, total: int) -> float:
    """Return the learning rate at ``samples`` seen of ``total`` by the fields of ``config``."""
    schedule = Schedule(
        config.lr, config.warmup, config.schedule, config.lr_floor, config.cooldown, config.cooldown_shape
    )
    return schedule.rate(samples, total)


def adamw(model: nn.Module, config: Config) -> optim.AdamW:
    """Make AdamW for an open_clip ``model``, or for a module that holds one as ``model``.

    Weight decay applies to matrices only: vectors and scalars are gains, biases and the logit scale. A group's
    ``lr_scale`` is its factor of the learning rate: ``text_lr / lr`` for the text tower, 1 for the rest, times
    ``config.layer_decay`` for each layer between a weight and its tower's output (for fine-tuning). Locked weights are
    in no group.
    """
    text_scale = 1.0 if config.text_lr is None else config.text_lr / config.lr
    # A tower's depth is that of its last layer that learns.
    named = [(name.removeprefix("model."), weight) for name, weight in model.named_parameters()]
    depth = {
        tower: max(_layer(name) for name, weight in named if weight.requires_grad and _of_text(name) is tower)
        for tower in {_of_text(name) for name, weight in named if weight.requires_grad}
    }
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, weight in named:
        if weight.requires_grad:
            scale = text_scale if _of_text(name) else 1.0
            if config.layer_decay != 1:
                scale *= config.layer_decay ** max(0, depth[_of_text(name)] - _layer(name, depth[_of_text(name)]))
            decay = config.weight_decay if weight.ndim >= 2 and "bias" not in name else 0.0
            # One kernel cannot step sharded and whole weights together.
            groups.setdefault((decay, scale, isinstance(weight, DTensor)), []).append(weight)
    return optim.AdamW(
        [
            {"params": weights, "weight_decay": decay, "lr_scale": scale}
            for (decay, scale, _), weights in groups.items()
        ],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def _of_text(name: str) -> bool:
    return not name.startswith(("visual.", "logit_", "fusion."))  # ALBEF's fusion encoder learns at the full rate


_BLOCK = re.compile(r"(?:resblocks|blocks|layers|layer)\.(\d+)\.")
_INPUT = ("embedding", "conv1", "ln_pre", "patch_embed", "cls_token", "pos_embed", "stem")


def _layer(name: str, depth: int = 0) -> int:
    """Return a weight's layer: 0 for embeddings, 1 for the first block, ``depth`` for the head."""
    if found := _BLOCK.search(name):
        return int(found[1]) + 1
    return 0 if any(part in name for part in _INPUT) else depth

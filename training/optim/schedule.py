"""The optimizer and its learning rate. Both know samples seen and nothing of steps, epochs or workers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn
from torch.distributed.tensor import DTensor

from training.model.precision import AdamW

if TYPE_CHECKING:
    from training.config import Config, Optimizer

__all__ = ["adamw", "learning_rate"]


def learning_rate(config: Config, samples: float, total: int) -> float:
    """The rate at ``samples`` seen of ``total``."""
    return config.schedule.rate(config.optimizer.lr, samples, total)


def adamw(model: nn.Module, config: Optimizer) -> AdamW:
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

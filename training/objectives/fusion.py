"""The fusion encoder that an objective trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from infra.fusion.build import build_fusion
from infra.fusion.heads import FusionModel
from training.model.blocks import compile_blocks

if TYPE_CHECKING:
    from training.config import Config as Run

__all__ = ["fusion_encoder"]


def fusion_encoder(model: nn.Module, described: Mapping[str, Any], run: Run) -> FusionModel:
    """Build the fusion encoder that is ``described``, to be trained as ``run.cluster`` says.

    Its weights are drawn from the run's seed, without disturbing the generator of the model's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        fusion = build_fusion(model, described)
    fusion.grad_checkpointing = run.cluster.grad_checkpointing
    if run.cluster.compile:
        compile_blocks(fusion)
    return fusion

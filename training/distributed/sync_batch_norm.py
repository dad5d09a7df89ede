"""Batch-norm statistics over the batches of all ranks, so that a ResNet learns the same on any number of GPUs."""

from __future__ import annotations

from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]
from torch import nn

from infra.errors import ConfigError
from training.distributed.world import World

__all__ = ["synchronise_batch_norms"]


def synchronise_batch_norms(model: nn.Module, world: World) -> nn.Module:
    """Return ``model`` with its batch norms converted to torch's SyncBatchNorm, which runs on GPUs only.

    Raises ConfigError for a model with trainable batch norms on several CPU workers: each worker would normalise by
    the statistics of its own part of the batch, so the number of workers would change the result.
    """
    if world.size == 1:
        return model
    if world.device.type == "cuda":
        # timm's conversion keeps the activation that timm fuses into its norms; torch's own drops it.
        converted: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"the batch norm {name} cannot take its statistics over several CPU workers",
                expected="one worker, GPUs, or a model without batch norms",
                found=f"{world.size} CPU workers and {type(module).__name__}",
                fix="set workers=1 or gpu=true, or choose another model, such as a ViT",
            )
    return model

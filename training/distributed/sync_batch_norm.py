"""Batch-norm statistics over the batches of all ranks, so that a ResNet learns the same on any number of workers."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]
from torch import Tensor, nn

from infra.errors import ConfigError
from training.distributed.world import World

__all__ = ["synchronise_batch_norms"]


def synchronise_batch_norms(model: nn.Module, world: World) -> nn.Module:
    """Return ``model`` with batch norms that take their statistics over all ranks: torch's on GPUs, ours on CPUs.

    Raises ConfigError for batch norms on CPU workers that are neither BatchNorm1d nor BatchNorm2d.
    """
    if world.size == 1:
        return model
    if world.device.type == "cuda":
        # timm's conversion keeps the activation that timm fuses into its norms; torch's own drops it.
        converted: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for name, module in model.named_modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
            # The module stays what it is, with its name, weights and evaluation mode; only its forward is replaced.
            module.forward = _SyncForward(module)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"the batch norm {name} cannot take its statistics over several CPU workers",
                expected="BatchNorm1d or BatchNorm2d, one worker, or GPUs",
                found=f"{world.size} CPU workers and {type(module).__name__}",
                fix="set workers=1 or gpu=true, or choose another model, such as a ViT",
            )
    return model


class _SyncForward:
    """Forward pass of a batch norm over inputs (b, c, ...), with the statistics of all ranks while training."""

    def __init__(self, norm: nn.Module) -> None:
        self.norm: Any = norm

    def __call__(self, x: Tensor) -> Tensor:
        norm = self.norm
        if not norm.training:
            plain: Tensor = type(norm).forward(norm, x)
            return plain
        out: Tensor
        out, mean, var = _BatchNorm.apply(x, norm.weight, norm.bias, norm.eps)
        if norm.track_running_stats:
            with torch.no_grad():
                norm.num_batches_tracked.add_(1)
                momentum = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
                count = x.numel() // x.shape[1] * dist.get_world_size()
                norm.running_mean.lerp_(mean, momentum)
                norm.running_var.lerp_(var * (count / (count - 1)), momentum)
        return out


class _BatchNorm(torch.autograd.Function):
    """Batch normalisation over all ranks, each of which has the same b.

    Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's context is untyped
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        world = dist.get_world_size()
        local = torch.stack(torch.batch_norm_update_stats(x, None, None, 0.0))
        gathered = local.new_empty(world * 2, x.shape[1])
        dist.all_gather_into_tensor(gathered, local)
        means, variances = gathered.view(world, 2, -1).unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps), mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # noqa: ANN401
        x, weight, mean, var = ctx.saved_tensors
        # The gradient as if mean and variance were constants, which torch computes in one fast pass.
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        # The gradient through mean and variance: affine in x, with sums over all ranks.
        total = torch.stack([grad_weight, grad_bias])
        dist.all_reduce(total)
        across, along = (total / (x.numel() // x.shape[1] * dist.get_world_size())).unbind(0)
        scale = (var + ctx.eps).rsqrt()
        slope = -weight * scale.square() * across
        offset = -weight * scale * along - slope * mean
        shape = [1, -1, *[1] * (x.ndim - 2)]
        return grad_x.addcmul_(x, slope.view(shape)).add_(offset.view(shape)), grad_weight, grad_bias, None

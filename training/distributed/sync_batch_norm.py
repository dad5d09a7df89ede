"""Batch statistics over the whole batch, so that a ResNet does not learn something else on more workers."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from infra.errors import ConfigError
from training.distributed.world import World

__all__ = ["synchronise"]


def synchronise(model: nn.Module, world: World) -> nn.Module:
    """``model`` with its batch norms taking statistics over all ranks: torch's own on GPUs, ours on CPUs.

    Raises ConfigError for a batch norm that does more than that on CPUs.
    """
    if world.size == 1:
        return model
    if world.device.type == "cuda":
        from timm import layers  # torch's own drops the activation of timm's fused norms

        converted: nn.Module = layers.convert_sync_batchnorm(model)  # type: ignore[attr-defined,no-untyped-call]
        return converted
    for name, module in model.named_modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
            module.forward = _Synced(module)  # the module stays what it is: its name, weights and evaluation mode
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"{name} of the model would take its statistics per worker, so that their number would matter",
                expected="BatchNorm1d or BatchNorm2d, or another kind of norm",
                found=type(module).__name__,
                fix="train on GPUs, with one worker, or another model",
            )
    return model


class _Synced:
    """The forward pass of a batch norm in training, (b, c, ...), over the batches of all ranks."""

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
    """Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, with sums over ranks; every rank's b is the same."""

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
        everyone = local.new_empty(world * 2, x.shape[1])
        dist.all_gather_into_tensor(everyone, local)
        means, variances = everyone.view(world, 2, -1).unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps), mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # noqa: ANN401
        x, weight, mean, var = ctx.saved_tensors
        # As if mean and variance were constants, which torch has in one fast pass ...
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        # ... and then what flows through them: affine in x, with the sums over all ranks.
        total = torch.stack([grad_weight, grad_bias])
        dist.all_reduce(total)
        across, along = (total / (x.numel() // x.shape[1] * dist.get_world_size())).unbind(0)
        scale = (var + ctx.eps).rsqrt()
        slope = -weight * scale.square() * across
        offset = -weight * scale * along - slope * mean
        shape = [1, -1, *[1] * (x.ndim - 2)]
        return grad_x.addcmul_(x, slope.view(shape)).add_(offset.view(shape)), grad_weight, grad_bias, None

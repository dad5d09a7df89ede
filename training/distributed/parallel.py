"""One model on many devices: whole on each (DDP) or a shard on each (FSDP2), and the loop need not know which.

DDP keeps every weight on every rank and averages gradients while the backward pass still runs. FSDP2 (ZeRO-3;
Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054) keeps a slice of every weight, its gradient and its moments
on each rank, and brings a block's weights together just before the block needs them. Either way the gradient is that
of the mean loss over ranks, and the numbers are those of one rank.

In bf16, FSDP2 rounds the weights of a block as it brings them together, which is half the bytes, and autocast does the
rest as it does it under DDP: matrices are multiplied in bf16, norms and sums are not. What FSDP2 would round too much
is kept from it. Vectors and numbers (gains, biases, the logit scale) stay whole on every rank and are averaged here:
they are a thousandth of the weights, and a gain in bf16 has a gradient in bf16, added up over all tokens, of which on
some devices nothing is right but the sign. Weights outside blocks (embeddings, projections) travel in fp32.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

if TYPE_CHECKING:
    from training.distributed.world import World
    from training.train import Config

__all__ = ["Parallel", "gathered", "local", "wrap"]

T = TypeVar("T")


def wrap(objective: nn.Module, config: Config, world: World) -> Parallel:
    """``objective`` on this rank's device, ready to train with the other ranks.

    Make the optimizer afterwards: FSDP2 puts other parameters in the place of those it shards.
    """
    if world.size == 1:
        return Parallel(objective.to(world.device))
    if config.cluster.parallel == "fsdp":
        return _Sharded(objective, config, world)
    return _Replicated(objective.to(world.device))


class Parallel:
    """What the loop sees of the model; this one is for a rank that is alone."""

    def __init__(self, objective: nn.Module) -> None:
        self.objective = objective
        self.module: nn.Module = objective

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The objective's forward pass. All ranks call it equally often."""
        outputs: dict[str, Tensor] = self.module(*inputs)
        return outputs

    def call(self, function: Callable[..., T], *arguments: Any) -> T:  # noqa: ANN401 - whatever the function takes
        """``function(*arguments)``, some forward pass of the model (``model.encode_image``) on all ranks together."""
        return function(*arguments)

    def no_sync(self) -> AbstractContextManager[object]:
        """A backward pass in here adds to this rank's gradients only; the next one outside sends the sum."""
        return nullcontext()

    def clip(self, limit: float | None) -> Tensor:
        """Norm of the gradient of the whole batch, 0-D, and the gradient scaled down where that is above ``limit``.

        To be called once after the backward pass of every step.
        """
        weights = [weight for weight in self.objective.parameters() if weight.grad is not None]
        kinds = [[w for w in weights if isinstance(w, DTensor) is sharded] for sharded in (False, True)]
        norms = [_whole(get_total_norm([_exact(w.grad) for w in kind if w.grad is not None])) for kind in kinds if kind]
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
        if limit is not None:
            for kind in kinds:
                clip_grads_with_norm_(kind, limit, norm)
        return norm


class _Replicated(Parallel):
    def __init__(self, objective: nn.Module) -> None:
        super().__init__(objective)
        # Buffers are equal on all ranks by construction (training/norm.py), so nobody needs to send them around. Newer
        # versions of torch have another name for the option.
        known = inspect.signature(DistributedDataParallel).parameters
        silent = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        # A gradient that is a view into DDP's bucket need not be copied into it.
        options: dict[str, Any] = {silent: False, "gradient_as_bucket_view": True}
        self._ddp = DistributedDataParallel(objective, **options)
        self.module = self._ddp

    def no_sync(self) -> AbstractContextManager[object]:
        return self._ddp.no_sync()


class _Sharded(Parallel):
    def __init__(self, objective: nn.Module, config: Config, world: World) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        super().__init__(objective)
        mesh = init_device_mesh(world.device.type, (world.size,))
        # The shards, gradients and moments are fp32, so they are the masters that weights in bf16 have elsewhere
        # (training/precision.py). With "bf16" what goes through the blocks is bf16, too.
        objective.float()
        policy = MixedPrecisionPolicy()
        if config.precision != "fp32":
            policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16,
                reduce_dtype=torch.float32,
                cast_forward_inputs=config.precision == "bf16",
            )
        whole = [weight for weight in objective.parameters() if weight.ndim < 2]
        for block in _blocks(objective):
            fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params={*whole})
        fully_shard(objective, mesh=mesh, ignored_params={*whole})
        objective.to(world.device)  # FSDP2 has moved its own; these are the vectors and the buffers
        self._whole = [weight for weight in whole if weight.requires_grad]
        root: Any = objective
        root.call = lambda function, *arguments: function(*arguments)
        self._root = root
        register_fsdp_forward_method(objective, "call")

    def call(self, function: Callable[..., T], *arguments: Any) -> T:  # noqa: ANN401
        result: T = self._root.call(function, *arguments)
        return result

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        self._root.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self._root.set_requires_gradient_sync(True)

    def clip(self, limit: float | None) -> Tensor:
        gradients = [weight.grad for weight in self._whole if weight.grad is not None]
        if gradients:
            together = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(together)
            together /= dist.get_world_size()
            start = 0
            for gradient in gradients:
                gradient.copy_(together[start : start + gradient.numel()].view_as(gradient))
                start += gradient.numel()
        return super().clip(limit)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a network (transformer layers, residual blocks), innermost first.

    They are what open_clip, timm and transformers keep in lists: composite modules, all of one class.
    """
    found = [
        block
        for group in module.modules()
        if isinstance(group, (nn.ModuleList, nn.Sequential)) and len(group) > 1 and len({*map(type, group)}) == 1
        for block in group
        if next(block.children(), None) is not None and any(weight.ndim > 1 for weight in block.parameters())
    ]
    return found[::-1]


def gathered(tree: Any, world: World) -> Any:  # noqa: ANN401 - a tree of plain values and tensors, as state_dict() gives
    """``tree`` with every tensor whole and on the CPU, on rank 0; on other ranks without its tensors.

    All ranks call it. One tensor at a time is brought together, so that no rank but the first holds more than it had.
    """
    match tree:
        case DTensor():
            whole = tree.full_tensor()
            return whole.cpu() if world.rank == 0 else None
        case Tensor():
            return tree.detach().cpu() if world.rank == 0 else None
        case Mapping():
            return {key: gathered(value, world) for key, value in tree.items()}
        case list() | tuple():
            return [gathered(value, world) for value in tree]
        case _:
            return tree


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` that this rank holds, the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _exact(gradient: Tensor) -> Tensor:
    return gradient.float() if gradient.dtype == torch.bfloat16 else gradient  # 8 bits are too few to add squares in

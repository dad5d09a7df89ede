"""One model on several devices: replicated (DDP) or sharded (FSDP2), behind one interface.

DDP keeps every weight on every rank and averages gradients while the backward pass still runs. FSDP2 (ZeRO-3;
Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054) keeps a slice of every weight, its gradient and its moments
on each rank, and all-gathers a block's weights just before the block needs them. Either way the gradient is that of the
mean loss over ranks, equal to that of one rank with the whole batch.

With ``amp_bf16``, FSDP2 rounds the weights of a block as it gathers them, which halves the bytes, and autocast does the
rest as under DDP: matrices are multiplied in bf16, norms and sums are not. Two kinds of weights are kept from rounding.
Vectors and scalars (gains, biases, the logit scale) stay whole on every rank and are averaged here: they are a
thousandth of the weights, and a gain in bf16 has a gradient in bf16, summed over all tokens, of which on some devices
only the sign is right. Weights outside blocks (embeddings, projections) travel in fp32.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from training.model.blocks import repeated_blocks

if TYPE_CHECKING:
    from training.config import Config
    from training.distributed.world import World

__all__ = ["Parallel", "gathered", "local", "wrap"]

T = TypeVar("T")


def wrap(objective: nn.Module, config: Config, world: World) -> Parallel:
    """Move ``objective`` to this rank's device and connect it with the other ranks.

    Make the optimizer afterwards: FSDP2 replaces the parameters that it shards.
    """
    if world.size == 1:
        return Parallel(objective.to(world.device))
    if config.cluster.parallel == "fsdp":
        return _Sharded(objective, config, world)
    return _Replicated(objective.to(world.device))


class Parallel:
    """The training loop's interface to a wrapped model. This base class is for a single rank."""

    def __init__(self, objective: nn.Module) -> None:
        self.objective = objective
        self.module: nn.Module = objective

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Run the objective's forward pass. All ranks must call it equally often."""
        outputs: dict[str, Tensor] = self.module(*inputs)
        return outputs

    def call(self, function: Callable[..., T], *arguments: Any) -> T:  # noqa: ANN401 - whatever the function takes
        """Return ``function(*arguments)``, a forward pass of the model's parts that all ranks run together."""
        return function(*arguments)

    def no_sync(self) -> AbstractContextManager[object]:
        """Accumulate gradients on this rank only; the next backward pass outside the context reduces the sum."""
        return nullcontext()

    def clip(self, limit: float | None) -> Tensor:
        """Scale the gradient down to norm ``limit`` where it is larger; return its norm over all ranks before, 0-D.

        Call it exactly once after the backward pass of every step: with FSDP2 it also averages the vectors' gradients.
        """
        # Sharded and whole tensors cannot be reduced by one kernel, so each kind has a norm of its own.
        weights = [weight for weight in self.objective.parameters() if weight.grad is not None]
        kinds = [[w for w in weights if isinstance(w, DTensor) is sharded] for sharded in (False, True)]
        norms = [_full(get_total_norm([w.grad for w in kind if w.grad is not None])) for kind in kinds if kind]
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
        if limit is not None:
            for kind in kinds:
                clip_grads_with_norm_(kind, limit, norm)
        return norm


class _Replicated(Parallel):
    def __init__(self, objective: nn.Module) -> None:
        super().__init__(objective)
        # Buffers are equal on all ranks by construction, so they need no broadcast. Newer versions of torch call the
        # option differently.
        known = inspect.signature(DistributedDataParallel).parameters
        sync_buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        # A gradient that is a view into DDP's bucket need not be copied into it.
        options: dict[str, Any] = {sync_buffers: False, "gradient_as_bucket_view": True}
        self._ddp = DistributedDataParallel(objective, **options)
        self.module = self._ddp

    def no_sync(self) -> AbstractContextManager[object]:
        return self._ddp.no_sync()


class _Sharded(Parallel):
    def __init__(self, objective: nn.Module, config: Config, world: World) -> None:
        super().__init__(objective)
        mesh = init_device_mesh(world.device.type, (world.size,))
        # Shards, gradients and moments are fp32; weights are rounded to bf16 only as they are gathered. What else is
        # bf16 is decided by autocast, so the inputs of blocks are not cast.
        policy = MixedPrecisionPolicy()
        if config.precision == "amp_bf16":
            policy = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
        whole = [weight for weight in objective.parameters() if weight.ndim < 2]
        for block in _blocks(objective):
            fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params={*whole})
        fully_shard(objective, mesh=mesh, ignored_params={*whole})
        objective.to(world.device)  # FSDP2 has moved its shards; this moves the vectors and the buffers
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
        # Average the gradients of whole vectors over ranks in one all-reduce.
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
    """List the repeated blocks that have matrices to shard, innermost first, as FSDP2 must wrap them."""
    found = [block for block in repeated_blocks(module) if any(weight.ndim > 1 for weight in block.parameters())]
    return found[::-1]


def gathered(tree: Any, world: World) -> Any:  # noqa: ANN401 - a tree of plain values and tensors, as state_dict() gives
    """Return ``tree`` with every tensor whole and on the CPU on rank 0; on other ranks with None for every tensor.

    All ranks must call it. Tensors are gathered one at a time, so that only rank 0 ever holds more than it had.
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
    """Return the part of ``tensor`` that this rank holds, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

"""The processes that train together, and their messages other than features and gradients.

A batch is divided into equal parts, so not every number of processes can train on it: of 7 on a batch of 1,024, four
do. The others stand by (:attr:`World.active` is false) and the process group is re-created without them, so that code
that asks the default group for its size (losses, batch norms, DDP, FSDP) is right as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from infra.errors import CliplineError

__all__ = ["World", "usable_ranks"]

T = TypeVar("T")


def usable_ranks(size: int, shares: int) -> int:
    """Return how many of ``size`` ranks can divide ``shares`` evenly: the largest divisor of it up to ``size``."""
    return next(count for count in range(min(size, shares), 0, -1) if shares % count == 0)


@dataclass(frozen=True)
class World:
    """This process's place among ``size`` ranks.

    ``control`` is a gloo group for messages on the CPU, so that they never wait for a GPU.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    control: dist.ProcessGroup | None = None  # None: the default group, which is gloo on CPUs
    active: bool = True  # False: this process stands by and must not train
    notice: Callable[[], bool] | None = None  # whether this machine will be taken away soon; None: unknown

    @property
    def node(self) -> tuple[Fraction, Fraction]:
        """The part of each batch that this machine's ranks read, as fractions of the batch: start and end.

        ``torchrun`` and Ray give the number of local ranks in the environment, and number them consecutively.
        """
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        first = self.rank - int(os.environ.get("LOCAL_RANK", 0))
        return Fraction(first, self.size), min(Fraction(first + here, self.size), Fraction(1))

    @classmethod
    def join(
        cls,
        device: torch.device | None = None,
        *,
        shares: int | None = None,
        timeout_s: float = 600,
        notice: Callable[[], bool] | None = None,
    ) -> World:
        """Return the world of the current process group, or join the group that ``torchrun``'s variables describe.

        ``shares`` is the number of equal parts that a batch can be divided into: only as many ranks as divide it are
        active. ``timeout_s`` is the time limit of a collective, in seconds.
        """
        if device is None:
            cuda = torch.cuda.is_available()
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        timeout = timedelta(seconds=timeout_s)
        if not dist.is_initialized():
            if "RANK" not in os.environ:
                return cls(device=device, notice=notice)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
        rank, size = dist.get_rank(), dist.get_world_size()
        if shares is not None and (count := usable_ranks(size, shares)) < size:
            _shrink(count, timeout)
            size = count
        if rank >= size or size == 1:
            return cls(rank, size, device, active=rank < size, notice=notice)
        control: Any = dist.new_group(backend="gloo", timeout=timeout) if device.type == "cuda" else None
        return cls(rank, size, device, control, notice=notice)

    def gather(self, value: T) -> list[T]:
        """Return every rank's ``value``, in rank order. All ranks must call it."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values  # type: ignore[return-value] # every place was filled

    def broadcast(self, value: T) -> T:
        """Return rank 0's ``value`` on all ranks. All ranks must call it."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def raise_if_any_failed(self, error: CliplineError | None = None, *, stop: bool = False) -> bool:
        """Raise the first failed rank's error on all ranks; else return whether any rank asks to stop.

        All ranks must call it: one that raised alone would leave the others in their next collective until it times
        out.
        """
        return self.start_agreement(error, stop=stop)()

    def start_agreement(self, error: CliplineError | None = None, *, stop: bool = False) -> Callable[[], bool]:
        """Start the all-reduce behind :meth:`raise_if_any_failed`; the returned function waits for its result.

        It takes some tens of microseconds a rank, which overlap whatever the ranks do between the two calls.
        """
        worst = torch.tensor([2 if error else int(stop)])
        reduction = dist.all_reduce(worst, dist.ReduceOp.MAX, self.control, async_op=True) if self.size > 1 else None

        def finish() -> bool:
            if reduction is not None:
                reduction.wait()
            if worst == 2:
                raise next(failure for failure in self.gather(error) if failure is not None)
            return bool(worst == 1)

        return finish


def _shrink(count: int, timeout: timedelta) -> None:
    """Make the first ``count`` ranks the default process group; the others leave it."""
    rank, backend = dist.get_rank(), dist.get_backend()
    torch_store = dist.distributed_c10d._get_default_store()
    store = dist.distributed_c10d.PrefixStore(f"first-{count}", torch_store)
    dist.barrier()  # every rank must have entered the group before it is destroyed
    dist.destroy_process_group()
    if rank < count and count > 1:
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)

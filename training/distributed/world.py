"""The processes that train together, and the few things they must say to one another outside the gradients.

A batch is shared out in equal parts, so not every number of processes can train on it: of 7 on a batch of 1,024, four
do. The others stand by (:attr:`World.active` is false) and the process group is formed anew without them, so that
nothing that asks the default group for its size (losses, batch norms, DDP, FSDP) needs to know.
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

__all__ = ["World", "parties"]

T = TypeVar("T")


def parties(size: int, shares: int) -> int:
    """The most of ``size`` processes that can take equally many of ``shares``: the largest divisor up to ``size``."""
    return next(count for count in range(min(size, shares), 0, -1) if shares % count == 0)


@dataclass(frozen=True)
class World:
    """This process among ``size``. ``control`` is a gloo group, so that small talk never waits for a GPU."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    control: dist.ProcessGroup | None = None  # none: the default group, which is gloo on CPUs
    active: bool = True  # false: this process stands by and must not train
    notice: Callable[[], bool] | None = None  # whether this machine is known to be taken away soon; none: nobody knows

    @property
    def node(self) -> tuple[Fraction, Fraction]:
        """Which part of each batch the processes of this machine have: from and up to which place, of 1.

        ``torchrun`` and Ray say how many they are, and number them one after another.
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
        """The world of the process group that is up; without one, of the group that ``torchrun``'s variables name.

        ``shares`` are the equal parts that a batch can be cut into: ranks beyond the largest number that divides it
        stand by. ``timeout_s`` is how long a collective may take before whoever waits in it gives up.
        """
        if device is None:
            cuda = torch.cuda.is_available()
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        patience = timedelta(seconds=timeout_s)
        if not dist.is_initialized():
            if "RANK" not in os.environ:
                return cls(device=device, notice=notice)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
        rank, size = dist.get_rank(), dist.get_world_size()
        if shares is not None and (count := parties(size, shares)) < size:
            _shrink(count, patience)
            size = count
        if rank >= size or size == 1:
            return cls(rank, size, device, active=rank < size, notice=notice)
        control: Any = dist.new_group(backend="gloo", timeout=patience) if device.type == "cuda" else None
        return cls(rank, size, device, control, notice=notice)

    def gather(self, value: T) -> list[T]:
        """``value`` of every rank, in rank order."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values  # type: ignore[return-value] # every place was filled

    def share(self, value: T) -> T:
        """Rank 0's ``value`` on all ranks."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def settle(self, error: CliplineError | None = None, *, stop: bool = False) -> bool:
        """Whether any rank wants to stop; if any has failed, its error is raised on all.

        A rank that left alone would leave the others waiting in their next collective until it times out.
        """
        return self.settling(error, stop=stop)()

    def settling(self, error: CliplineError | None = None, *, stop: bool = False) -> Callable[[], bool]:
        """The same, begun now and answered by a call: all ranks call it, whatever else they do in between.

        The answer goes around all ranks, some tens of microseconds a rank, which a step has and nobody need wait for.
        """
        worst = torch.tensor([2 if error else int(stop)])
        going = dist.all_reduce(worst, dist.ReduceOp.MAX, self.control, async_op=True) if self.size > 1 else None

        def answer() -> bool:
            if going is not None:
                going.wait()
            if worst == 2:
                raise next(failure for failure in self.gather(error) if failure is not None)
            return bool(worst == 1)

        return answer


def _shrink(count: int, timeout: timedelta) -> None:
    """Make the first ``count`` ranks the default process group; the others are in none any more."""
    rank, backend = dist.get_rank(), dist.get_backend()
    torch_store = dist.distributed_c10d._get_default_store()
    store = dist.distributed_c10d.PrefixStore(f"first-{count}", torch_store)
    dist.barrier()  # nobody may still be on the way into the group that ends here
    dist.destroy_process_group()
    if rank < count and count > 1:
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)

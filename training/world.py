"""The processes that train together, and the few things they must say to one another outside the gradients."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from infra.errors import CliplineError

__all__ = ["World"]

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among ``size``. ``control`` is a gloo group, so that small talk never waits for a GPU."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    control: dist.ProcessGroup | None = None  # none: the default group, which is gloo on CPUs

    @classmethod
    def join(cls, device: torch.device | None = None) -> World:
        """The world of the process group that is up; without one, of the group that ``torchrun``'s variables name."""
        if device is None:
            cuda = torch.cuda.is_available()
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            if "RANK" not in os.environ:
                return cls(device=device)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        control: Any = dist.new_group(backend="gloo") if device.type == "cuda" else None
        return cls(dist.get_rank(), dist.get_world_size(), device, control)

    def gather(self, value: T) -> list[T]:
        """``value`` of every rank, in rank order."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values  # type: ignore[return-value] # every place was filled

    def settle(self, error: CliplineError | None = None, *, stop: bool = False) -> bool:
        """Whether any rank wants to stop; if any has failed, its error is raised on all.

        A rank that left alone would leave the others waiting in their next collective until it times out.
        """
        state = 2 if error else int(stop)
        if self.size > 1:
            worst = torch.tensor([state])
            dist.all_reduce(worst, dist.ReduceOp.MAX, group=self.control)
            state = int(worst)
        if state == 2:
            raise next(failure for failure in self.gather(error) if failure is not None)
        return state == 1

"""Throughput, memory and data wait, for the run's curves and progress bar; never part of the artifact."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch

from training.model.flops import mfu

if TYPE_CHECKING:
    from infra.run.context import Context
    from training.distributed.world import World

__all__ = ["Meter", "RankStats"]


class RankStats(NamedTuple):
    """The measurements of one rank."""

    waited: float  # seconds spent waiting for data since the last call of :meth:`Meter.log`
    memory: int  # peak memory so far, in bytes


class Meter:
    """Measures a rank's rates over the time since the last call of :meth:`log`."""

    PROGRESS_S = 1.0

    def __init__(
        self, context: Context, world: World, total: int, flops: float | None = None, peak: float | None = None
    ) -> None:
        """
        Args:
            total: samples of the whole run.
            flops: FLOPs of the model's forward pass for one sample, if known.
            peak: peak FLOP/s of a rank's device, if known.
        """
        self._context, self._world, self._total = context, world, total
        self._flops, self._peak = flops, peak
        self._since: tuple[float, int] | None = None  # time and samples at the last log
        self._samples, self._waited, self._shown = 0, 0.0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside the context as waiting for data."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Exclude the time inside the context from all rates: it is not training."""
        started = time.perf_counter()
        yield
        if self._since is not None:
            self._since = (self._since[0] + time.perf_counter() - started, self._since[1])

    def count(self, samples: int) -> None:
        """Record that ``samples`` have been seen. The first step is a warm-up and left out of all rates."""
        now = time.perf_counter()
        self._samples = samples
        if self._since is None:
            self._since, self._waited = (now, samples), 0.0
        elif self._world.rank == 0 and now - self._shown >= self.PROGRESS_S:
            self._shown = now
            self._progress(now)

    def rank_stats(self) -> RankStats:
        """Return this rank's measurements, to be gathered and passed to :meth:`log`."""
        return RankStats(self._waited, memory(self._world.device))

    def log(self, line: dict[str, float], ranks: Sequence[RankStats]) -> None:
        """Log a ``line`` of the history with the rates, on rank 0. All GPU work before must have finished.

        Of ``ranks`` the worst is shown: all wait for the one that waits longest for data, and the one with most memory
        is the first to run out of it.
        """
        now = time.perf_counter()
        if self._world.rank == 0 and self._since is not None:
            rates = {"memory_gb": max(rank.memory for rank in ranks) / 1e9}
            if self._samples > self._since[1]:
                each = self._rate(now) / self._world.size
                rates["samples_per_s"] = self._rate(now)
                rates["samples_per_s_per_worker"] = each
                rates["data_wait"] = max(rank.waited for rank in ranks) / (now - self._since[0])
                if self._flops and self._peak:
                    rates["mfu"] = mfu(self._flops, each, self._peak)
                    rates["peak_tflops"] = self._peak / 1e12
            values = {name: value for name, value in line.items() if name != "samples"}
            self._context.metrics({**values, **rates}, step=int(line["samples"]))
            self._progress(now)
        self._since, self._waited = (now, self._samples), 0.0

    def _progress(self, now: float) -> None:
        rate = self._rate(now)
        left = {"eta_s": (self._total - self._samples) / rate} if rate > 0 else {}
        self._context.progress(self._samples, self._total, samples_per_s=rate, **left)

    def _rate(self, now: float) -> float:
        since, samples = self._since or (now, self._samples)
        return (self._samples - samples) / max(now - since, 1e-9)


def memory(device: torch.device) -> int:
    """Return this process's peak memory in bytes: the GPU's, or on the CPU the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux

"""How fast training goes and what it waits for: to the run's curves and progress bar, never into the artifact."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.context import Context
    from training.world import World

__all__ = ["Meter"]


class Meter:
    """Rank 0's clock. Rates are over the time since the last call of :meth:`log`."""

    PROGRESS_S = 1.0

    def __init__(self, context: Context, world: World, total: int) -> None:
        self._context, self._world, self._total = context, world, total
        self._since: tuple[float, int] | None = None  # time and samples at the last log
        self._samples, self._waited, self._shown = 0, 0.0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent in here is time spent waiting for data."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Time spent in here is not training and counts for no rate."""
        started = time.perf_counter()
        yield
        if self._since is not None:
            self._since = (self._since[0] + time.perf_counter() - started, self._since[1])

    def count(self, samples: int) -> None:
        """``samples`` have now been seen. The first step warms up and is left out of all rates."""
        now = time.perf_counter()
        self._samples = samples
        if self._since is None:
            self._since, self._waited = (now, samples), 0.0
        elif self._world.rank == 0 and now - self._shown >= self.PROGRESS_S:
            self._shown = now
            self._context.progress(samples, self._total, samples_per_s=self._rate(now))

    def log(self, line: dict[str, float]) -> None:
        """Send a line of the history to the curves, with the rates; needs all that came before to have finished."""
        now = time.perf_counter()
        if self._world.rank == 0 and self._since is not None:
            rates = {}
            if self._samples > self._since[1]:
                rate = self._rate(now)
                wait = self._waited / (now - self._since[0])
                rates = {
                    "samples_per_s": rate,
                    "samples_per_s_per_worker": rate / self._world.size,
                    "data_wait": wait,
                }
            values = {name: value for name, value in line.items() if name != "samples"}
            self._context.metrics({**values, **rates}, step=int(line["samples"]))
            self._context.progress(self._samples, self._total, samples_per_s=self._rate(now))
        self._since, self._waited = (now, self._samples), 0.0

    def _rate(self, now: float) -> float:
        since, samples = self._since or (now, self._samples)
        return (self._samples - samples) / max(now - since, 1e-9)

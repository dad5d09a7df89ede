"""A profile of a few steps, taken when somebody asks for one: torch's profiler, as a trace and as a table.

Ask by configuration (``profile_at``, samples seen) or, of a run that is under way, by making a file named ``profile``
in the stage's folder. The trace (chrome://tracing, Perfetto) and the table go to ``profiles/`` there and to MLflow.
"""

from __future__ import annotations

import gzip
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from torch.profiler import ProfilerActivity, profile, schedule

from infra.events import StageFile

if TYPE_CHECKING:
    from infra.run.context import Context
    from training.distributed.world import World

__all__ = ["Profiler"]


class Profiler:
    """Rank 0's; on the others it does nothing. The first step of a profile warms the profiler up and is thrown away."""

    REQUEST = "profile"
    LOOK_S = 10.0  # between two looks into the store, which an object store takes some 50 ms for
    STEPS = 4

    def __init__(self, context: Context, world: World, at: int | None) -> None:
        self._context, self._world, self._at = context, world, at
        self._profile: profile | None = None
        self._steps, self._name = 0, ""
        self._look_at = 0.0

    def look(self) -> None:
        """Look for a request, now and then."""
        now = time.monotonic()
        if self._world.rank != 0 or now < self._look_at:
            return
        self._look_at = now + self.LOOK_S
        if self._context.store.exists(self.REQUEST):
            self._context.store.delete(self.REQUEST)
            self._at = 0

    def step(self, samples: int) -> None:
        """After every step, with the samples seen so far."""
        if self._world.rank != 0:
            return
        if self._profile is not None:
            self._steps += 1
            self._name = f"profiles/{samples:012d}"
            self._profile.step()  # writes, after the last
            if self._steps == self.STEPS:
                self.close()
        elif self._at is not None and samples >= self._at:
            self._at = None
            self._start()

    def close(self) -> None:
        """End a profile; one that is not complete is dropped."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if self._world.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._steps = 0
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=1, active=self.STEPS - 1, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
            with_flops=True,
        )
        self._profile.start()

    def _write(self, done: profile) -> None:
        by = "self_cuda_time_total" if self._world.device.type == "cuda" else "self_cpu_time_total"
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder, "trace.json")
            done.export_chrome_trace(str(trace))
            self._context.store.write(f"{self._name}.json.gz", gzip.compress(trace.read_bytes(), mtime=0))
        table = done.key_averages().table(sort_by=by, row_limit=50)
        self._context.store.write(f"{self._name}.txt", table.encode())
        for suffix in ("json.gz", "txt"):
            path = f"{self._name}.{suffix}"
            self._context.send(StageFile(stage=self._context.stage, folder=self._context.store.url, path=path))

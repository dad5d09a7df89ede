"""The functions and limits that a stage passes to a shard loop, and the wait before another attempt."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from infra.run.context import ShardOutput
from infra.run.manifest import ShardRecord

__all__ = ["TENSORS", "BatchWork", "Limits", "OnDone", "ShardWork", "backoff", "slots", "warn_if_no_gpu"]

log = logging.getLogger(__name__)

ShardWork = Callable[[Any, ShardOutput], ShardRecord]
BatchWork = Callable[[Sequence[tuple[Any, ShardOutput]]], Iterable[ShardRecord]]
OnDone = Callable[[ShardRecord], Mapping[str, float | str] | None]
"""Callback after each shard; its return value joins the progress line."""


@dataclass(frozen=True)
class Limits:
    """Resources, retries and tolerance of a shard loop. None of this can change a result."""

    cpus: float = 1.0  # of one task
    gpus: float = 0.0
    in_flight: int | None = None  # tasks at once; None: as many as the cluster's CPUs take
    attempts: int = 3  # per shard
    max_unforeseen: float = 0.01  # share of rows that may end with an error nobody foresaw
    deadline_s: float | None = None  # per attempt of a shard, from when it starts to work
    environment: Mapping[str, str] = field(default_factory=dict)  # variables of the workers, which then are its own


TENSORS = MappingProxyType({"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34)})
"""Environment of workers that run a model on CPUs: glibc keeps the memory of large tensors for the next ones.

By default it returns it after each layer, and the kernel clears the same pages again and again.
"""


def slots(limits: Limits) -> int:
    """Number of tasks of a shard loop that run at once, on the cluster as it is now."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    most = resources.get("CPU", 1.0) / max(limits.cpus, 0.01)
    if limits.gpus:
        most = min(most, resources.get("GPU", 0.0) / limits.gpus)
    return limits.in_flight or max(1, int(most))


def warn_if_no_gpu(gpus: float) -> None:
    """Log why a task of so many GPUs waits, if no node has them; one that joins later will run it."""
    if not gpus:
        return
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    most = max((node["Resources"].get("GPU", 0.0) for node in nodes if node["Alive"]), default=0.0)
    if most < gpus:
        log.warning("waiting for a node with %g GPU; the nodes there are have %g (gpus=0 runs on CPUs)", gpus, most)


def backoff(attempt: int) -> float:
    """Seconds to wait before attempt ``attempt`` (2, 3, ...): doubling from one second to a minute, fully jittered."""
    return random.uniform(0.5, 1.0) * min(60.0, 2.0 ** (attempt - 2))

"""The functions and limits that a stage passes to a shard loop, and the wait before another attempt."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.run.context import ShardOutput
from infra.run.manifest import ShardRecord

__all__ = ["BatchWork", "Limits", "OnDone", "ShardWork", "backoff", "slots"]

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


def slots(limits: Limits) -> int:
    """Number of tasks of a shard loop that run at once, on the cluster as it is now."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return limits.in_flight or max(1, int(resources.get("CPU", 1.0) / max(limits.cpus, 0.01)))


def backoff(attempt: int) -> float:
    """Seconds to wait before attempt ``attempt`` (2, 3, ...): doubling from one second to a minute, fully jittered."""
    return random.uniform(0.5, 1.0) * min(60.0, 2.0 ** (attempt - 2))

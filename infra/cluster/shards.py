"""Running work on many shards as Ray tasks. The loop itself is in :mod:`infra.cluster.loop`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from infra.run.context import Context, ShardOutput
from infra.run.manifest import ShardRecord

__all__ = ["BatchWork", "Limits", "OnDone", "ShardWork", "run_batches", "run_shards", "slots"]

ShardWork = Callable[[Any, ShardOutput], ShardRecord]
BatchWork = Callable[[Sequence[tuple[Any, ShardOutput]]], Iterable[ShardRecord]]
OnDone = Callable[[ShardRecord], Mapping[str, float | str] | None]
"""Callback after each shard; its return value joins the progress line."""


@dataclass(frozen=True)
class Limits:
    """How a shard loop may use the cluster. None of this can change a result."""

    cpus: float = 1.0  # of one task
    gpus: float = 0.0
    in_flight: int | None = None  # tasks at once; None: as many as the cluster's CPUs take
    attempts: int = 3  # per shard
    deadline_s: float | None = None  # per attempt of a shard, from when it starts to work


def run_shards(
    context: Context,
    shards: Iterable[tuple[str, Any]],
    work: ShardWork,
    limits: Limits | None = None,
    on_done: OnDone | None = None,
) -> list[ShardRecord]:
    """Run ``work(spec, output)`` for each ``(name, spec)`` as Ray tasks; the records in the order of ``shards``.

    ``work`` writes its files through ``output`` and returns ``output.commit(...)``. It must be deterministic, so that
    a shard done twice (a worker presumed dead that was not) leaves the same bytes.

    Raises StageFailed naming the shard when its attempts are used up, the shard's own error at once if it is not
    transient, and Preempted when the run was asked to stop.
    """
    return run_batches(context, shards, partial(_one_by_one, work), limits, on_done, size=1)


def _one_by_one(work: ShardWork, batch: Sequence[tuple[Any, ShardOutput]]) -> Iterator[ShardRecord]:
    for spec, output in batch:
        yield work(spec, output)


def run_batches(
    context: Context,
    shards: Iterable[tuple[str, Any]],
    work: BatchWork,
    limits: Limits | None = None,
    on_done: OnDone | None = None,
    *,
    size: int,
) -> list[ShardRecord]:
    """:func:`run_shards` for work that does several shards better together than one after the other.

    ``work([(spec, output), ...])`` gets at most ``size`` neighbouring shards and yields each one's record, in any
    order, as soon as it is committed; of a batch that fails, only what was not committed is tried again.
    """
    from infra.cluster.loop import ShardLoop  # imports ray

    return ShardLoop(context, list(shards), work, limits or Limits(), on_done, size).run()


def slots(limits: Limits) -> int:
    """How many tasks of a shard loop run at once."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return limits.in_flight or max(1, int(resources.get("CPU", 1.0) / max(limits.cpus, 0.01)))

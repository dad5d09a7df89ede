"""Running work on many shards as Ray tasks. The loop itself is in :mod:`infra.cluster.loop`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from infra.cluster.limits import BatchWork, Limits, OnDone, ShardWork, slots
from infra.run.context import Context, ShardOutput
from infra.run.manifest import ShardRecord

__all__ = ["run_batches", "run_shards"]

_LOT = 10_000  # rows that are worth a task


def run_shards(
    context: Context,
    shards: Iterable[tuple[str, Any]],
    work: ShardWork,
    limits: Limits | None = None,
    on_done: OnDone | None = None,
    *,
    rows: int | None = None,
) -> list[ShardRecord]:
    """Run ``work(spec, output)`` for each ``(name, spec)`` as Ray tasks; the records in the order of ``shards``.

    ``work`` writes its files through ``output`` and returns ``output.commit(...)``. It must be deterministic, so that
    a shard done twice (a worker presumed dead that was not) leaves the same bytes.

    ``rows``: of all the shards together. Small shards are then done several to a task, some 10,000 rows, if that leaves
    a task for each CPU; it saves the driver two thirds of its time. Without it each shard is a task.

    Raises StageFailed naming the shard when its attempts are used up, the shard's own error at once if it is not
    transient, and Preempted when the run was asked to stop.
    """
    shards, limits = list(shards), limits or Limits()
    size = 1
    if rows is not None and shards:
        size = max(1, min(_LOT * len(shards) // max(rows, 1), len(shards) // slots(limits)))
    return run_batches(context, shards, partial(_one_by_one, work), limits, on_done, size=size)


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

"""Running work on many shards as Ray tasks. The loop itself is in :mod:`infra.cluster.loop`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from infra.cluster.limits import BatchWork, Limits, OnDone, ShardWork
from infra.run.context import Context, ShardOutput
from infra.run.pieces import Records
from infra.run.records import ShardRecord

__all__ = ["run_batches", "run_shards"]


def run_shards(
    context: Context,
    shards: Iterable[tuple[str, Any]],
    work: ShardWork,
    limits: Limits | None = None,
    on_done: OnDone | None = None,
) -> Records:
    """Run ``work(spec, output)`` for each ``(name, spec)`` as Ray tasks; the records in the order of ``shards``.

    ``work`` writes its files through ``output`` and returns ``output.commit(...)``. It must be deterministic, so that
    a shard done twice (a worker presumed dead that was not) leaves the same bytes. The loop must be over the same
    shards, in the same order, whenever the stage runs.

    Shards that take less than a second are done several to a task, as many as take about that, if that leaves a task
    for each CPU.

    Raises StageFailed naming the shard when its attempts are used up, the shard's own error at once if it is not
    transient, and Preempted when the run was asked to stop.
    """
    return run_batches(context, shards, partial(_one_by_one, work), limits, on_done)


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
    size: int | None = None,
) -> Records:
    """:func:`run_shards` for work that does several shards better together than one after the other.

    ``work([(spec, output), ...])`` gets at most ``size`` neighbouring shards and yields each one's record, in any
    order, as soon as it is committed; of a batch that fails, only what was not committed is tried again.
    """
    from infra.cluster.loop import ShardLoop  # imports ray

    return ShardLoop(context, list(shards), work, limits or Limits(), on_done, size).run()

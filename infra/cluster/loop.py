"""The shard loop: a bounded number of batches in flight as Ray tasks, until every shard has a record.

A task streams back the record of each shard as it is committed, so the driver knows what is left of a batch whose
worker is lost.
"""

from __future__ import annotations

import faulthandler
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import WorkerCrashedError

from infra.cluster.failures import is_transient, original
from infra.cluster.limits import BatchWork, Limits, OnDone, backoff, slots
from infra.errors import CliplineError, DataError, DeadlineError, StageFailed
from infra.events import ShardRetry
from infra.rows import RowErrors
from infra.run.context import Context, ShardOutput
from infra.run.manifest import ShardRecord
from infra.store import Store

__all__ = ["ShardLoop"]

_POLL_S = 0.2


@dataclass(frozen=True)
class _Batch:
    """The shards left of one task, and the attempt at the first of them. Times in monotonic seconds."""

    shards: tuple[tuple[str, Any], ...]
    attempt: int = 1
    not_before: float = 0.0
    heard: float = 0.0  # when it was submitted or last returned a record

    def without(self, shard: str) -> _Batch:
        left = tuple(one for one in self.shards if one[0] != shard)
        return replace(self, shards=left, attempt=1, heard=time.monotonic())


class ShardLoop:
    """One call of :func:`~infra.cluster.run_batches`."""

    def __init__(
        self,
        context: Context,
        shards: Sequence[tuple[str, Any]],
        work: BatchWork,
        limits: Limits,
        on_done: OnDone | None,
        size: int,
    ) -> None:
        names = [name for name, _ in shards]
        if len(set(names)) != len(names):
            raise DataError(f"{context.stage} has two shards of the same name")
        self._context, self._names, self._work, self._limits, self._on_done = context, names, work, limits, on_done
        # Committed shards are not worked on again.
        self._records = context.ledger.read(names)
        self._row_errors = RowErrors(limits.max_unforeseen)
        left = [(name, spec) for name, spec in shards if name not in self._records]
        self._waiting = deque(_Batch(tuple(left[start : start + size])) for start in range(0, len(left), size))
        self._running: dict[Any, _Batch] = {}  # by the stream of the task's records
        self._slots = slots(limits)
        self._task = ray.remote(_batch_task).options(
            num_cpus=limits.cpus,
            num_gpus=limits.gpus,
            num_returns="streaming",
            max_retries=0,
            scheduling_strategy="SPREAD",
            **({"runtime_env": {"env_vars": dict(limits.environment)}} if limits.environment else {}),
        )

    def run(self) -> list[ShardRecord]:
        """Every shard's record, in the order of the shards."""
        self._context.progress(len(self._records), len(self._names))
        try:
            while self._waiting or self._running:
                self._context.check()
                self._submit()
                if not self._running:  # every batch left is waiting out its backoff
                    time.sleep(_POLL_S / 2)
                    continue
                ready, _ = ray.wait(list(self._running), num_returns=1, timeout=_POLL_S)
                for stream in ready:
                    self._receive(stream)
        finally:
            for stream in self._running:
                ray.cancel(stream, force=True)
        return [self._records[name] for name in self._names]

    def _submit(self) -> None:
        """Start waiting batches whose time has come, as long as there are free slots."""
        now = time.monotonic()
        for _ in range(len(self._waiting)):
            if len(self._running) >= self._slots:
                return
            batch = self._waiting.popleft()
            if batch.not_before > now:
                self._waiting.append(batch)
                continue
            stream = self._task.remote(self._work, batch.shards, self._context.store, self._limits.deadline_s)
            self._running[stream] = replace(batch, heard=now)

    def _receive(self, stream: Any) -> None:  # noqa: ANN401 - Ray's annotations know no generators here
        """Take the next record of a task, its end, or its error."""
        batch = self._running.pop(stream)
        try:
            record = ShardRecord.model_validate_json(ray.get(next(stream)))
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001 - work may raise anything; _retry re-raises what is not transient
            if batch.shards or not is_transient(error):  # a worker lost after its last shard loses nothing
                self._waiting.append(self._retry(batch, error))
            return
        self._running[stream] = batch.without(record.shard)
        self._records[record.shard] = record
        self._row_errors.add(record, self._context.ledger)
        numbers = self._on_done(record) if self._on_done else None
        self._context.progress(len(self._records), len(self._names), **(numbers or {}))

    def _retry(self, batch: _Batch, error: Exception) -> _Batch:
        """The next attempt at ``batch``. Raises the error that ends the stage if there is none."""
        stage, limits, cause = self._context.stage, self._limits, original(error)
        if not is_transient(error):
            raise cause
        shard = batch.shards[0][0]
        late = limits.deadline_s is not None and time.monotonic() - batch.heard >= limits.deadline_s
        if late and isinstance(cause, WorkerCrashedError):
            cause = DeadlineError(f"shard {shard} ran past {limits.deadline_s:g} s")
        if batch.attempt >= limits.attempts:
            raise StageFailed(
                f"shard {shard} of {stage} failed {batch.attempt} times",
                found=f"{type(cause).__name__}: {cause}",
                fix="run again to continue: the other shards are kept",
            ) from cause
        wait = backoff(batch.attempt + 1)
        self._context.send(ShardRetry(stage=stage, shard=shard, attempt=batch.attempt, error=repr(cause), wait_s=wait))
        return replace(batch, attempt=batch.attempt + 1, not_before=time.monotonic() + wait)


# --- in the worker ----------------------------------------------------------------------------------------------------


def _batch_task(
    work: BatchWork, shards: Sequence[tuple[str, Any]], store: Store, deadline_s: float | None
) -> Iterator[str]:
    """The Ray task of a batch: run ``work`` and yield each record as JSON."""
    left = {name for name, _ in shards}
    _restart_deadline(deadline_s)
    try:
        for record in work([(spec, ShardOutput(store, name)) for name, spec in shards]):
            if not isinstance(record, ShardRecord):
                break
            left.discard(record.shard)
            yield record.model_dump_json()
            _restart_deadline(deadline_s)
    finally:
        faulthandler.cancel_dump_traceback_later()
    if left:
        raise CliplineError(f"the work on shard {min(left)} committed nothing", expected="return output.commit(...)")


def _restart_deadline(deadline_s: float | None) -> None:
    """Start the deadline of the next shard.

    It is kept here, not by the driver, which cannot tell work from waiting for a free CPU. It ends the process even if
    that is stuck in C code, and leaves in Ray's log of the worker where it was stuck.
    """
    if deadline_s is not None:
        faulthandler.dump_traceback_later(deadline_s, exit=True)

"""The shard loop: a bounded number of batches in flight as Ray tasks, until every shard has a record.

Ray takes a millisecond of the driver for a task and half of one for each answer. So a task gets as many shards as take
about a second, and answers five times a second with the records of the shards it has committed since.
"""

from __future__ import annotations

import faulthandler
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
import ray
from ray.exceptions import WorkerCrashedError

from infra.cluster.failures import is_transient, original
from infra.cluster.limits import BatchWork, Limits, OnDone, backoff, slots, task_options, warn_if_none_fits
from infra.errors import CliplineError, DataError, DeadlineError, StageFailed
from infra.events import ShardRetry
from infra.rows import RowErrors
from infra.run.context import Context, ShardOutput
from infra.run.pieces import Records
from infra.run.records import ShardRecord, encode
from infra.store import Store

__all__ = ["ShardLoop"]

_POLL_S = 0.2
_ANSWER_S = 0.2  # between two answers of a task, and between two lines of progress
_TASK_S = 1.0  # that a task should take
_MOST = 1000  # shards of a task


@dataclass
class _Batch:
    """The shards left of one task, and the attempt at the first of them. Times in monotonic seconds."""

    left: dict[str, int]  # numbers of the shards by name
    attempt: int = 1
    not_before: float = 0.0
    heard: float = 0.0  # when it was submitted or last answered


class ShardLoop:
    """One call of :func:`~infra.cluster.run_batches`. ``size``: shards of a task; None: as many as take a second."""

    def __init__(
        self,
        context: Context,
        shards: Sequence[tuple[str, Any]],
        work: BatchWork,
        limits: Limits,
        on_done: OnDone | None,
        size: int | None,
    ) -> None:
        names = [name for name, _ in shards]
        if len(set(names)) != len(names):
            raise DataError(f"{context.stage} has two shards of the same name")
        self._context, self._shards, self._limits, self._on_done = context, shards, limits, on_done
        # Committed shards are not worked on again.
        self._tally = context.ledger.tally(names)
        self._new, self._unsent = self._tally.left(), len(names) - self._tally.done
        self._row_errors = RowErrors(limits.max_unforeseen)
        self._again: deque[_Batch] = deque()
        self._running: dict[Any, _Batch] = {}  # by the stream of the task's answers
        self._slots = slots(limits)
        self._size = size
        self._shard_s: float | None = None  # that a shard takes, not known yet
        self._numbers: Mapping[str, float | str] = {}  # for the line of progress
        self._reported, self._reported_at = -1, 0.0
        self._work = ray.put(work)  # once, not with each task
        self._task = ray.remote(_batch_task).options(
            num_returns="streaming", max_retries=0, scheduling_strategy="SPREAD", **task_options(limits)
        )

    def run(self) -> Records:
        """Every shard's record, in the order of the shards."""
        self._report()
        warn_if_none_fits(self._limits)
        try:
            while self._unsent or self._again or self._running:
                self._context.check()
                self._submit()
                if not self._running:  # every batch left is waiting out its backoff
                    time.sleep(_POLL_S / 2)
                    continue
                ready, _ = ray.wait(list(self._running), num_returns=1, timeout=_POLL_S)
                for stream in ready:
                    self._receive(stream)
                if time.monotonic() - self._reported_at >= _ANSWER_S:
                    self._report()
        finally:
            for stream in self._running:
                ray.cancel(stream, force=True)
        self._report()
        return self._tally.records()

    # --- out

    def _submit(self) -> None:
        """Start batches whose time has come, as long as there are free slots."""
        while len(self._running) < self._slots and (batch := self._next()):
            batch.heard = time.monotonic()
            shards = [self._shards[number] for number in batch.left.values()]
            stream = self._task.remote(self._work, shards, self._context.store, self._limits.deadline_s)
            self._running[stream] = batch

    def _next(self) -> _Batch | None:
        """A batch to try again that has waited long enough, or one of new shards."""
        for _ in range(len(self._again)):
            batch = self._again.popleft()
            if batch.not_before <= time.monotonic():
                return batch
            self._again.append(batch)
        numbers = list(islice(self._new, self._lot()))
        self._unsent -= len(numbers)
        return _Batch({self._shards[number][0]: number for number in numbers}) if numbers else None

    def _lot(self) -> int:
        """Shards of the next task. The last tasks get fewer, so that all end at about the same time."""
        if self._size is not None:
            return self._size
        if self._shard_s is None:
            return 1
        fair = self._unsent // (2 * self._slots)
        return max(1, min(int(_TASK_S / max(self._shard_s, 1e-6)), fair, _MOST))

    # --- in

    def _receive(self, stream: Any) -> None:  # noqa: ANN401 - Ray's annotations know no generators here
        """Take the next answer of a task, its end, or its error."""
        batch = self._running.pop(stream)
        try:
            seconds, data = ray.get(next(stream))
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001 - work may raise anything; _retry re-raises what is not transient
            self._retry(batch, error)
            return
        records = _DECODER.decode_lines(data)
        own = seconds / len(records)
        self._shard_s = own if self._shard_s is None else (own + self._shard_s) / 2
        batch.attempt, batch.heard = 1, time.monotonic()
        self._running[stream] = batch
        self._take(batch, records)

    def _take(self, batch: _Batch, records: Sequence[ShardRecord]) -> None:
        for record in records:
            self._tally.add(batch.left.pop(record.shard), record)
            self._row_errors.add(record, self._context.ledger)
            self._numbers = (self._on_done(record) if self._on_done else None) or self._numbers

    def _report(self) -> None:
        if self._tally.done != self._reported:
            self._reported, self._reported_at = self._tally.done, time.monotonic()
            self._context.progress(self._tally.done, len(self._shards), **self._numbers)

    def _retry(self, batch: _Batch, error: Exception) -> None:
        """Plan the next attempt at ``batch``. Raises the error that ends the stage if there is none."""
        stage, limits, cause = self._context.stage, self._limits, original(error)
        if not is_transient(error):
            raise cause
        # What a lost worker had committed, but not told of.
        self._take(batch, self._context.ledger.loose(batch.left))
        if not batch.left:
            return
        shard = next(iter(batch.left))
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
        batch.attempt, batch.not_before = batch.attempt + 1, time.monotonic() + wait
        self._again.append(batch)


_DECODER = msgspec.json.Decoder(ShardRecord)


# --- in the worker ----------------------------------------------------------------------------------------------------


def _batch_task(
    work: BatchWork, shards: Sequence[tuple[str, Any]], store: Store, deadline_s: float | None
) -> Iterator[tuple[float, bytes]]:
    """The Ray task of a batch: run ``work`` and yield records as lines of JSON, with the seconds they took."""
    left = {name for name, _ in shards}
    lines: list[bytes] = []
    begun = time.monotonic()
    _restart_deadline(deadline_s)
    failure: Exception | None = None
    try:
        for record in work([(spec, ShardOutput(store, name)) for name, spec in shards]):
            if not isinstance(record, ShardRecord):
                break
            left.discard(record.shard)
            lines.append(encode(record))
            if (seconds := time.monotonic() - begun) >= _ANSWER_S:
                yield seconds, b"\n".join(lines)
                lines, begun = [], time.monotonic()
            _restart_deadline(deadline_s)
    except Exception as error:  # noqa: BLE001 - raised below, behind what was committed
        failure = error
    finally:
        faulthandler.cancel_dump_traceback_later()
    if lines:
        yield time.monotonic() - begun, b"\n".join(lines)
    if failure is not None:
        raise failure
    if left:
        raise CliplineError(f"the work on shard {min(left)} committed nothing", expected="return output.commit(...)")


def _restart_deadline(deadline_s: float | None) -> None:
    """Start the deadline of the next shard.

    It is kept here, not by the driver, which cannot tell work from waiting for a free CPU. It ends the process even if
    that is stuck in C code, and leaves in Ray's log of the worker where it was stuck.
    """
    if deadline_s is not None:
        faulthandler.dump_traceback_later(deadline_s, exit=True)

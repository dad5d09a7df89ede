"""Ray, and the two things clipline builds on it: the bounded shard loop and the line from worker to driver.

:func:`run_shards` is how every shard-to-shard stage works: committed shards are skipped, a bounded number is in
flight, a failed one is retried if its error is worth it, a stuck one is cancelled at its deadline.
:class:`Reporter` carries events from any process of the cluster to the driver and the wish to stop back.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from infra.errors import CliplineError, DataError, DeadlineError, StageFailed, TransientError
from infra.events import Event, ShardRetry
from infra.run.context import Context, ShardOutput
from infra.run.manifest import ShardRecord
from infra.store import unreachable

if TYPE_CHECKING:
    from infra.store import Store

__all__ = [
    "ALONE",
    "Limits",
    "Reporter",
    "backoff",
    "connect",
    "is_transient",
    "mailbox",
    "original",
    "run_lots",
    "run_shards",
    "slots",
]

log = logging.getLogger(__name__)

ALONE = {
    # On one machine Ray stays on loopback, where nobody else reaches it and no change of the network cuts it in two; by
    # itself it does so on macOS and Windows only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # A laptop that slept or a virtual machine that was paused must not end a run: by the clock, Ray's head was away.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
}
"""How Ray is started on this machine alone. It reads this when it is imported."""

ShardWork = Callable[[Any, ShardOutput], ShardRecord]
OnDone = Callable[[ShardRecord], Mapping[str, float | str] | None]
"""Told of each shard as it is done; what it returns is shown with the progress."""
LotWork = Callable[[Sequence[tuple[Any, ShardOutput]]], Iterable[ShardRecord]]


@contextmanager
def connect(cpus: int | None = None) -> Iterator[None]:
    """Join the cluster at ``RAY_ADDRESS``, or start one on this machine for the duration of the block."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.update({name: value for name, value in ALONE.items() if name not in os.environ})
    import ray

    if ray.is_initialized():
        yield
        return
    # Ray announces the token it made for a local cluster as a warning; it is what we want, so nobody needs to read it.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "clipline"}
    if address:
        try:
            ray.init(address=address, **quiet)
        except ConnectionError as error:
            raise CliplineError(
                f"no Ray cluster answers at {address}", found=str(error), fix="unset RAY_ADDRESS to start one here"
            ) from error
    else:
        # "local": without it Ray would join whatever cluster somebody else started on this machine
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        # The autoscaler has nothing to do on one machine, and ray.shutdown() would wait a second in vain for its end.
        node: Any = ray._private.worker._global_node
        node.kill_monitor(check_alive=False)
    try:
        yield
    finally:
        ray.shutdown()


def backoff(attempt: int) -> float:
    """Seconds to wait before attempt ``attempt`` (2, 3, ...): doubling from one second to a minute, fully jittered."""
    return random.uniform(0.5, 1.0) * min(60.0, 2.0 ** (attempt - 2))


def original(error: BaseException) -> BaseException:
    """The exception the task itself raised, freed of Ray's wrapping."""
    from ray.exceptions import RayTaskError

    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: our TransientError, a lost worker or node, the network."""
    import ray.exceptions as rex

    lost = (rex.WorkerCrashedError, rex.NodeDiedError, rex.OutOfMemoryError, rex.ObjectLostError, rex.RayActorError)
    cause = original(error)
    return isinstance(cause, (TransientError, *lost)) or unreachable(cause)


# --- the shard loop ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """How a shard loop may use the cluster. None of this can change a result."""

    cpus: float = 1.0  # of one shard's task
    gpus: float = 0.0
    in_flight: int | None = None  # None: as many as the cluster's CPUs take
    attempts: int = 3  # per shard
    deadline_s: float | None = None  # per attempt of a shard, from when it starts to work


@dataclass(frozen=True)
class _Job:
    """One attempt at a lot of shards; ``at`` is when it may start, then when it was last heard of (monotonic s)."""

    shards: tuple[tuple[str, Any], ...]
    attempt: int = 1
    at: float = 0.0

    def without(self, shard: str) -> _Job:
        left = tuple(one for one in self.shards if one[0] != shard)
        return replace(self, shards=left, attempt=1, at=time.monotonic())


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
    return run_lots(context, shards, partial(_one_by_one, work), limits, on_done, lot=1)


def _one_by_one(work: ShardWork, lot: Sequence[tuple[Any, ShardOutput]]) -> Iterator[ShardRecord]:
    for spec, output in lot:
        yield work(spec, output)


def run_lots(
    context: Context,
    shards: Iterable[tuple[str, Any]],
    work: LotWork,
    limits: Limits | None = None,
    on_done: OnDone | None = None,
    *,
    lot: int,
) -> list[ShardRecord]:
    """:func:`run_shards` for work that does several shards better together than one after the other.

    ``work([(spec, output), ...])`` gets ``lot`` neighbouring shards at most and yields each one's record, in any order,
    as soon as it is committed; of a lot that fails, only what was not committed is tried again.
    """
    import ray

    limits = limits or Limits()
    shards = list(shards)
    if len({name for name, _ in shards}) != len(shards):
        raise DataError(f"{context.stage} has two shards of the same name")
    records = context.ledger.read([name for name, _ in shards])
    left = [(name, spec) for name, spec in shards if name not in records]
    waiting = deque(_Job(tuple(left[start : start + lot])) for start in range(0, len(left), lot))
    flying: dict[Any, _Job] = {}
    room = slots(limits)
    task = ray.remote(_lot_task).options(
        num_cpus=limits.cpus,
        num_gpus=limits.gpus,
        num_returns="streaming",
        max_retries=0,
        scheduling_strategy="SPREAD",
    )
    context.progress(len(records), len(shards))
    try:
        while waiting or flying:
            context.check()
            now = time.monotonic()
            for _ in range(len(waiting)):
                if len(flying) >= room:
                    break
                job = waiting.popleft()
                if job.at <= now:
                    flying[task.remote(work, job.shards, context.store, limits.deadline_s)] = replace(job, at=now)
                else:
                    waiting.append(job)
            if not flying:  # every job left is waiting out its backoff
                time.sleep(0.1)
                continue
            done, _ = ray.wait(list(flying), num_returns=1, timeout=0.2)
            stream: Any  # Ray's own annotations know no generators here
            for stream in done:
                job = flying.pop(stream)
                try:
                    record = ShardRecord.model_validate_json(ray.get(next(stream)))
                except StopIteration:
                    continue
                except Exception as error:  # noqa: BLE001 - work may raise anything; _retry re-raises what is not transient
                    if job.shards or not is_transient(error):  # who is lost with nothing left to do loses nothing
                        waiting.append(_retry(context, job, error, limits))
                    continue
                flying[stream] = job.without(record.shard)
                records[record.shard] = record
                numbers = on_done(record) if on_done else None
                context.progress(len(records), len(shards), **(numbers or {}))
    finally:
        for stream in flying:
            ray.cancel(stream, force=True)
    return [records[name] for name, _ in shards]


def slots(limits: Limits) -> int:
    """How many tasks of a shard loop run at once."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return limits.in_flight or max(1, int(resources.get("CPU", 1.0) / max(limits.cpus, 0.01)))


def _retry(context: Context, job: _Job, error: Exception, limits: Limits) -> _Job:
    """The next attempt at ``job``, or the error that ends the stage."""
    from ray.exceptions import WorkerCrashedError

    cause = original(error)
    if not is_transient(error):
        raise cause
    shard = job.shards[0][0]
    late = limits.deadline_s is not None and time.monotonic() - job.at >= limits.deadline_s
    if late and isinstance(cause, WorkerCrashedError):
        cause = DeadlineError(f"shard {shard} ran past {limits.deadline_s:g} s")
    if job.attempt >= limits.attempts:
        raise StageFailed(
            f"shard {shard} of {context.stage} failed {job.attempt} times",
            found=f"{type(cause).__name__}: {cause}",
            fix="run again to continue: the other shards are kept",
        ) from cause
    wait = backoff(job.attempt + 1)
    context.send(ShardRetry(stage=context.stage, shard=shard, attempt=job.attempt, error=repr(cause), wait_s=wait))
    return replace(job, attempt=job.attempt + 1, at=time.monotonic() + wait)


def _lot_task(
    work: LotWork, shards: Sequence[tuple[str, Any]], store: Store, deadline_s: float | None
) -> Iterator[str]:
    left = {name for name, _ in shards}
    _watch(deadline_s)
    try:
        for record in work([(spec, ShardOutput(store, name)) for name, spec in shards]):
            if not isinstance(record, ShardRecord):
                break
            left.discard(record.shard)
            yield record.model_dump_json()
            _watch(deadline_s)
    finally:
        faulthandler.cancel_dump_traceback_later()
    if left:
        raise CliplineError(f"the work on shard {min(left)} committed nothing", expected="return output.commit(...)")


def _watch(deadline_s: float | None) -> None:
    """(Re)start the clock of a shard.

    It is kept here, not by the driver, which cannot tell work from waiting for a free CPU. It ends the process even if
    that is stuck in C code, and leaves in Ray's log of the worker where it was stuck.
    """
    if deadline_s is not None:
        faulthandler.dump_traceback_later(deadline_s, exit=True)


# --- the line between workers and driver ------------------------------------------------------------------------------


class _Mailbox:
    """Runs as a Ray actor beside the driver."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stop = False

    def post(self, events: list[Event]) -> bool:
        self._events.extend(events)
        return self._stop

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        self._stop = True


def mailbox() -> Any:  # noqa: ANN401 - Ray's actor handles are untyped
    """A new mailbox actor on this node: ``post``, ``take``, ``stop``."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()


class Reporter:
    """Sends events to a mailbox in the background and learns from its answers whether to stop. Pickles to workers."""

    INTERVAL_S = 0.5

    def __init__(self, mailbox: Any) -> None:  # noqa: ANN401
        self._mailbox = mailbox
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._pending: list[Event] = []
        self._stop = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return (Reporter, (self._mailbox,))

    def emit(self, event: Event) -> None:
        with self._lock:
            self._pending.append(event)
            self._start()

    def stopping(self) -> bool:
        with self._lock:
            self._start()
        return self._stop

    def flush(self) -> None:
        """Send what is pending and wait until it has arrived."""
        import ray

        with self._flushing:  # keeps events in order when a caller and the thread flush at once
            with self._lock:
                events, self._pending = self._pending, []
            self._stop = bool(ray.get(self._mailbox.post.remote(events)))

    def close(self) -> None:
        """Send what is pending and end the thread: a worker's process outlives what it is used for."""
        self._closed.set()
        self.flush()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="clipline-reporter", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        import ray

        while not self._closed.wait(self.INTERVAL_S):
            try:
                self.flush()
            except ray.exceptions.RayError:
                # The driver is gone or going; Ray ends this process soon, and there is nobody left to tell.
                return

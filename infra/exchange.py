"""The exchange: rows of a stage that find each other by key, however many there are.

A stage is a row of *steps*. A step is a number of tasks; each reads the rows that earlier tasks sent to it, and what it
likes of the stage's inputs, sends rows on to the tasks of a later step, and writes files. No task holds more than its
part of the rows, and the driver holds none::

    exchange = Exchange(context, limits)
    exchange.step("read", files, read, sends={"words": 16})      # task.send("words", table, to=hashes % 16)
    exchange.step("count", range(16), count, receives="words")   # task.receive("words", [("word", UP), ("row", UP)])

A task is a shard of the stage's ledger: committed when it has sent and written all, and never done again. So a killed
stage goes on after the last committed task, of whichever step. Rows are received in an order that only the rows decide
(``sort`` must leave no ties), so that files are the same for any number of workers.

Rows on their way lie in the stage's own store, below ``exchange/``: an Arrow file per task and stream, with a record
batch per receiver, of which each reads its own. They are deleted when their step is done. Why not Ray Data's shuffle:
docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.cluster import Limits, run_shards
from infra.errors import DataError
from infra.run.context import Context, ShardOutput
from infra.run.pieces import Records
from infra.run.records import Funnel, ShardRecord
from infra.store import Store

__all__ = ["DOWN", "UP", "Exchange", "Sending", "Task", "parts_of"]

Order = Literal["ascending", "descending"]
UP: Order = "ascending"
DOWN: Order = "descending"
_FOLDER = "exchange"


@dataclass(frozen=True)
class Sending:
    """A stream of rows from the tasks of a step to ``parts`` receivers."""

    name: str
    senders: tuple[str, ...]
    parts: int

    def path(self, sender: str) -> str:
        return f"{_FOLDER}/{self.name}/{sender}.arrow"

    def rows_of(self, store: Store, part: int) -> pa.Table:
        """All rows sent to receiver ``part``, in the order of the senders."""
        batches = []
        for sender in self.senders:
            with store.open_scattered(self.path(sender)) as file, pa.ipc.open_file(file) as source:
                batches.append(source.get_batch(part))
        return pa.Table.from_batches(batches).combine_chunks()


@dataclass
class Task:
    """One task of a step, in its worker: what it is to do, and its connections to other tasks."""

    spec: Any
    number: int  # of the task in its step, and as a receiver
    output: ShardOutput
    inbox: Mapping[str, Sending]
    outbox: Mapping[str, Sending]
    funnel: Funnel | None = None  # what of it the task's record is to say
    facts: dict[str, Any] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)

    def receive(self, stream: str, sort: Sequence[tuple[str, Order]] = ()) -> pa.Table:
        """The rows of ``stream`` sent to this task, by the columns ``sort``: ``[("words", UP), ("score", DOWN)]``.

        Without it they come in the order of senders, and of rows in each.
        """
        rows = self.inbox[stream].rows_of(self.output.store, self.number)
        return rows.sort_by(list(sort)) if sort else rows

    def send(self, stream: str, rows: pa.Table, to: NDArray[Any]) -> None:
        """Send each of ``rows`` to the receiver of ``stream`` whose number ``to`` has. Once for each stream."""
        sending = self.outbox[stream]
        if stream in self.sent:
            raise DataError(f"a task of {self.output.shard} sent to {stream} twice", fix="send one table")
        self.sent.add(stream)
        ends = np.cumsum(np.bincount(to.astype(np.int64), minlength=sending.parts))
        if len(ends) > sending.parts:
            raise DataError(f"{stream} has {sending.parts} receivers", found=f"rows for number {len(ends) - 1}")
        # Of numbers of 16 bits numpy sorts the places by radix, in a fifth of the time.
        order = np.argsort(to.astype(np.min_scalar_type(sending.parts)), kind="stable")
        rows = rows.take(pa.array(order)).combine_chunks()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            self.output.store.publish(sending.path(self.output.shard)) as out,
            pa.ipc.new_file(out, rows.schema, options=options) as file,
        ):
            for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
                file.write_batch(_batch(rows.slice(start, end - start)))


def _batch(rows: pa.Table) -> pa.RecordBatch:
    """``rows``, which lie in one piece, as one batch even if there are none."""
    return rows.to_batches()[0] if rows.num_rows else pa.RecordBatch.from_pylist([], rows.schema)


Work = Callable[[Task], None]


class Exchange:
    """The steps of one stage; see the module's docstring.

    ``here``: run the tasks one after the other in this process, for rows too few to be worth a cluster.
    """

    def __init__(self, context: Context, limits: Limits, *, here: bool = False) -> None:
        self._context, self._limits, self._here = context, limits, here
        self._streams: dict[str, Sending] = {}

    def step(
        self,
        name: str,
        specs: Iterable[Any],
        work: Work,
        *,
        receives: Sequence[str] = (),
        sends: Mapping[str, int] | None = None,
    ) -> Records:
        """Run ``work(Task)`` for each of ``specs``; the records of the tasks in that order.

        ``receives``: names of streams of earlier steps, which end with this one. ``sends``: for each stream the number
        of its receivers. ``work`` must send to each of these once, even if only an empty table.
        """
        specs = list(specs)
        names = [f"{name}-{number:05d}" for number in range(len(specs))]
        inbox = {stream: self._streams[stream] for stream in receives}
        if wrong := [stream for stream in inbox.values() if stream.parts != len(names)]:
            raise DataError(f"{name} has {len(names)} tasks, {wrong[0].name} {wrong[0].parts} receivers")
        outbox = {stream: Sending(stream, tuple(names), parts) for stream, parts in (sends or {}).items()}
        shards = [(task, (number, spec)) for number, (task, spec) in enumerate(zip(names, specs, strict=True))]
        records = self._run(shards, partial(_task, work, inbox, outbox))
        self._streams |= outbox
        for stream in receives:
            self._context.store.delete(f"{_FOLDER}/{stream}")
            del self._streams[stream]
        return records

    def _run(self, shards: Sequence[tuple[str, Any]], work: Callable[[Any, ShardOutput], ShardRecord]) -> Records:
        if not self._here:
            return run_shards(self._context, shards, work, self._limits)
        tally = self._context.ledger.tally([name for name, _ in shards])
        for number in tally.left():
            self._context.check()
            name, spec = shards[number]
            tally.add(number, work(spec, ShardOutput(self._context.store, name)))
        return tally.records()

    def close(self) -> None:
        """Delete what is left of rows on their way."""
        self._context.store.delete(_FOLDER)


def _task(
    work: Work, inbox: Mapping[str, Sending], outbox: Mapping[str, Sending], spec: tuple[int, Any], output: ShardOutput
) -> ShardRecord:
    number, own = spec
    task = Task(own, number, output, inbox, outbox)
    work(task)
    if missing := set(outbox) - task.sent:
        raise DataError(f"{output.shard} sent nothing to {min(missing)}", fix="send an empty table")
    return output.commit(task.funnel, task.facts)


def parts_of(rows: int, each: int) -> int:
    """Number of receivers of about ``each`` rows. It decides no result, but is the same whatever the cluster."""
    return max(1, -(-rows // each))

"""First pass over the images: each source is read once, front to back, and its samples are written in their new order.

What a task has read waits in a temporary file on the local disk, and is written as one *run*: the task's samples in the
order of the whole set. The samples of a new shard are then one piece of each run (:mod:`pipelines.curate.shard.write`).
Only references go over the exchange: where a sample stands in the order, and where in its run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.exchange import UP, Order, Task
from infra.store.spool import Spool, Ticket
from pipelines.curate.shard.config import Config
from pipelines.curate.shard.split import Place, places_of

__all__ = ["IN_ORDER", "RUNS", "SAMPLES", "Parts", "Sample", "gather", "run_path"]

RUNS = "runs"
"""Folder of the runs, which are deleted when the shards are written."""

SAMPLES = pa.schema(
    [
        ("held_out", pa.bool_()),
        *((name, pa.uint64()) for name in Place._fields[1:]),
        *(("run", pa.int32()), ("offset", pa.int64())),
        *(("extensions", pa.list_(pa.string())), ("sizes", pa.list_(pa.int64()))),  # of the members, side by side
    ]
)
IN_ORDER: list[tuple[str, Order]] = [(name, UP) for name in SAMPLES.names[1:6]]


class Sample(NamedTuple):
    """A row of a source, and the members of its sample by extension."""

    row: Mapping[str, Any]
    members: Mapping[str, bytes]


class Parts(NamedTuple):
    """Receivers of references: of neighbours in the order, first all for training, then all that are held out."""

    train: int
    holdout: int

    def of(self, samples: pa.Table) -> NDArray[Any]:
        """The part of each of ``samples``: (n,) int64."""
        held_out = samples["held_out"].to_numpy()
        counts = np.where(held_out, self.holdout, self.train).astype(np.uint64)
        high = samples["sample"].to_numpy() >> np.uint64(32)
        parts: NDArray[Any] = ((high * counts) >> np.uint64(32)).astype(np.int64) + np.where(held_out, self.train, 0)
        return parts


def run_path(number: int) -> str:
    return f"{RUNS}/{number:05d}"


def gather(config: Config, read: Callable[[Task], Iterator[Sample]], parts: Parts, task: Task) -> None:
    """Write the samples of a task as a run, those that repeat as often as they do. Stream ``samples``: references to
    them (:data:`SAMPLES`)."""
    references: list[dict[str, Any]] = []
    rows = held_out = 0
    with Spool() as spool:
        for row, members in read(task):
            start = spool.put(b"".join(members.values())).offset
            known = {"extensions": list(members), "sizes": list(map(len, members.values()))}
            known |= {"run": task.number, "offset": start}
            places = places_of(row, config)
            references += [place._asdict() | known for place in places]
            held_out += places[0].held_out
            rows += 1
        samples = pa.Table.from_pylist(references, SAMPLES).sort_by([("held_out", UP), *IN_ORDER])
        starts, sizes = samples["offset"].to_pylist(), [sum(each) for each in samples["sizes"].to_pylist()]
        with task.output.store.publish(run_path(task.number)) as out:
            for start, size in zip(starts, sizes, strict=True):
                out.write(spool.get(Ticket(start, size)))
    offsets = pa.array(np.cumsum([0, *sizes])[:-1], pa.int64())
    samples = samples.set_column(samples.column_names.index("offset"), "offset", offsets)
    task.facts |= {"held_out": held_out, "repeated": len(references) - rows}
    task.send("samples", samples, parts.of(samples))

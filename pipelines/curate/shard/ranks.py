"""Numbers of the samples in the order of the whole set: what makes all shards but the last equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.arrays import begins_run
from infra.exchange import Task
from pipelines.curate.shard.gather import IN_ORDER

__all__ = ["Writers", "count", "number"]


class Writers:
    """Tasks that write neighbouring shards, ``shards`` of ``samples`` samples each: all for training, then the others.

    ``train``, ``holdout``: samples in all.
    """

    def __init__(self, samples: int, shards: int, train: int, holdout: int) -> None:
        self.samples, self.each = samples, samples * shards
        self.train, self.holdout = train, holdout

    @property
    def firsts(self) -> list[tuple[bool, int]]:
        """Of each task: True if its samples are held out, and the number of the first."""
        return [
            (held_out, first)
            for held_out, count in ((False, self.train), (True, self.holdout))
            for first in range(0, count, self.each)
        ]

    def of(self, held_out: bool, ranks: NDArray[Any]) -> NDArray[Any]:
        """The task that writes each sample: (n,) int64."""
        writers: NDArray[Any] = ranks // self.each + (-(-self.train // self.each) if held_out else 0)
        return writers


def count(task: Task) -> None:
    """Put the references of a part in order, stream ``counted``, and tell the number of its samples."""
    rows = task.receive("samples", IN_ORDER)
    task.facts["samples"] = int(_begins(rows).sum())
    task.send("counted", rows, np.full(rows.num_rows, task.number))


def number(writers: Writers, task: Task) -> None:
    """Send the references of a part, with their ``rank``, to those who write them: stream ``places``.

    ``spec``: the rank of the first of them.
    """
    rows = task.receive("counted")
    ranks = task.spec + np.cumsum(_begins(rows)) - 1
    held_out = bool(rows.num_rows and rows["held_out"][0].as_py())
    task.send("places", rows.append_column("rank", pa.array(ranks, pa.int64())), writers.of(held_out, ranks))


def _begins(rows: pa.Table) -> NDArray[Any]:
    """True for the first row of each sample. In training each row is one."""
    begins: NDArray[Any] = begins_run(rows["sample"].to_numpy(), rows["second"].to_numpy())
    begins |= ~rows["held_out"].to_numpy()
    return begins

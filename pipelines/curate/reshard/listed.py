"""Join samples with the ids of a subset over the exchange, before the images are copied.

The tars are read once for the samples' ids; these meet those of the subset in parts, and go back to their lot. So
nobody holds more than a part of either, however long the list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.arrays import begins_run
from infra.errors import DataError
from infra.exchange import UP, Exchange, Task, parts_of
from infra.run.manifest import Artifact
from infra.store import Store
from pipelines.curate.balance.entries import read_entries
from pipelines.curate.dedup.homes import part_of
from pipelines.curate.entries.corpus import Lines, lines_of
from pipelines.curate.reshard.sources import Lot, known_samples
from pipelines.curate.subset.ids import UID, packed, read_header, read_some

__all__ = ["TIMES", "join_subset"]

TIMES = "times"
"""Stream to each lot: places of samples in it that are listed, and how often."""

_IDS = 1_000_000  # of a slice of the subset, and of a part
_LINES = 32 << 20  # bytes
_UID = re.compile(UID)


class Numbers(NamedTuple):
    """Ids in some of the bytes of a file of numpy's."""

    store: Store
    path: str
    start: int
    stop: int


def join_subset(subset: Artifact, lots: Sequence[Lot], total: int, exchange: Exchange) -> list[str]:
    """Find what ``subset`` lists of the samples of ``lots``, about ``total``; the streams that tell: :data:`TIMES`."""
    slices, listed = _slices(subset)
    parts = parts_of(max(total, listed), _IDS)
    exchange.step("listed", slices, partial(_send_listed, parts), sends={"listed": parts})
    exchange.step("ids", lots, partial(_send_ids, parts), sends={"ids": parts})
    exchange.step("join", range(parts), partial(_join, len(lots)), receives=["listed", "ids"], sends={TIMES: len(lots)})
    return [TIMES]


def _slices(subset: Artifact) -> tuple[list[Any], int]:
    """The ids of a subset in slices, at least one, and how many there are, about."""
    if len(files := subset.files("data/", ".npy")) == 1:
        path, store = files[0].path, subset.store
        begin, count = read_header(store, path)
        starts = range(0, max(count, 1), _IDS)
        ends = (min(start + _IDS, count) for start in starts)
        slices: list[Any] = [
            Numbers(store, path, begin + 16 * start, begin + 16 * end) for start, end in zip(starts, ends, strict=True)
        ]
        return slices, count
    if len(files := subset.files("data/", ".txt")) == 1:
        size = files[0].bytes
        starts = range(0, max(size, 1), _LINES)
        return [Lines(subset.store, files[0].path, at, min(at + _LINES, size)) for at in starts], size // 33
    return [read_entries(subset)], 0


def _send_listed(parts: int, task: Task) -> None:
    """Stream ``listed``: the ids of a slice, each with how often it is there."""
    slice_ = task.spec
    if isinstance(slice_, Numbers):
        halves = read_some(*slice_)
    elif isinstance(slice_, Lines):
        halves = _halves([line.decode("utf-8", "replace") for line in lines_of(slice_)])
    else:
        halves = _halves(slice_)
    _send(task, "listed", halves, {}, parts)


def _halves(lines: Sequence[str]) -> NDArray[Any]:
    """Ids that stand one a line, as two numbers each: (n, 2) uint64. Raises DataError for what is none."""
    ids = [id for line in lines if (id := line.strip().lower())]
    if wrong := [id for id in ids if not _UID.fullmatch(id)]:
        raise DataError("a list of ids holds something else", expected="32 hex digits a line", found=repr(wrong[0]))
    return np.frombuffer(bytes.fromhex("".join(ids)), ">u8").astype(np.uint64).reshape(-1, 2)


def _send_ids(parts: int, task: Task) -> None:
    """Stream ``ids``: those of a lot's samples, with the lot and their place in it."""
    found = list(_ids_of(task))
    halves = np.array([halves for _, halves in found], np.uint64).reshape(-1, 2)
    places = np.array([place for place, _ in found], np.int64)
    _send(task, "ids", halves, {"lot": np.full(len(found), task.number), "place": places}, parts)


def _ids_of(task: Task) -> Iterator[tuple[int, tuple[int, int]]]:
    """Place and id of each sample of a lot that can be written. Raises DataError for one without an id."""
    for place, sample in enumerate(known_samples(task)):
        if sample.reason:
            continue
        uid = sample.row["uid"].lower()
        if not _UID.fullmatch(uid):
            raise DataError(
                f"{sample.tar}: sample {sample.row['key']!r} has no id",
                expected="a uid of 32 hex digits in its JSON, or as its key",
                fix="reshard without a subset",
            )
        yield place, (int(uid[:16], 16), int(uid[16:], 16))


def _send(task: Task, stream: str, halves: NDArray[Any], more: dict[str, Any], parts: int) -> None:
    rows = pa.table({"high": halves[:, 0], "low": halves[:, 1], **more})
    task.send(stream, rows, part_of(halves[:, 0] ^ halves[:, 1], parts))


def _join(lots: int, task: Task) -> None:
    """Stream :data:`TIMES`, from one part."""
    listed, rows = task.receive("listed"), task.receive("ids", [("lot", UP), ("place", UP)])
    ids = np.sort(_packed(listed))
    starts = np.flatnonzero(begins_run(ids))
    distinct, times = ids[starts], np.diff(np.r_[starts, len(ids)])
    wanted = _packed(rows)
    place = np.minimum(np.searchsorted(distinct, wanted), max(len(distinct) - 1, 0))
    there = distinct[place] == wanted if len(distinct) else np.zeros(len(wanted), bool)
    found = pa.table({"place": rows["place"].filter(pa.array(there)), "times": times[place[there]]})
    task.send(TIMES, found, rows["lot"].to_numpy()[there])


def _packed(rows: pa.Table) -> NDArray[Any]:
    return packed(np.stack([rows[name].to_numpy() for name in ("high", "low")], axis=1))

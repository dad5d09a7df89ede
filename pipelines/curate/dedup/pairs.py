"""Near duplicates, pair by pair: candidates by hash, confirmed by thumbnails at the homes of both.

Hashes are small and go to the exchange; thumbnails stay at home, and only those of candidates travel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.exchange import DOWN, UP, Task
from infra.schema import Drop
from pipelines.curate.dedup.candidates import Blocks, Found, candidates
from pipelines.curate.dedup.config import Config
from pipelines.curate.dedup.homes import Homes, part_of, row_numbers
from pipelines.curate.dedup.leaders import PAIRS
from pipelines.curate.dedup.rows import signatures_path
from pipelines.curate.dedup.signatures import CELLS, same
from pipelines.curate.dedup.verdicts import PENDING
from pipelines.tables import read_table

__all__ = ["attach_first", "confirm", "find_pairs"]

Array = NDArray[Any]

_COLUMNS = PAIRS.names[:4]


def find_pairs(config: Config, homes: Homes, blocks: Blocks, task: Task) -> None:
    """Find pairs of hashes within the distance, bucket by bucket. Streams ``candidates``: to the first's home;
    ``looks``: (row, original, reason) of images that look the same to the byte as one before them."""
    entries = task.receive("images")
    buckets = entries["bucket"].to_numpy()
    order = np.argsort(buckets, kind="stable")
    ends = np.flatnonzero(np.diff(buckets[order])) + 1
    equal, likely = [PENDING.empty_table()], [PAIRS.empty_table()]
    oversized = largest = 0
    for places in np.split(order, ends) if len(order) else []:
        images = entries.take(pa.array(places)).sort_by([("preference", DOWN), ("row", UP)])
        block = int(buckets[places[0]]) >> 24
        hashes, looks = images["phash"].to_numpy(), images["look"].to_numpy()
        leaves, copies = _equal_looks(hashes, looks)
        if block == 0:
            columns = [images["row"].take(copies.second), images["row"].take(copies.first)]
            reasons = pa.array([Drop.NEAR_DUPLICATE.value] * len(copies.second), pa.string())
            equal.append(pa.table([*columns, reasons], schema=PENDING))
        found = candidates(hashes[leaves], blocks, block, config.max_bucket)
        likely.append(_pairs(images, leaves[found.first], leaves[found.second]))
        oversized, largest = oversized + found.oversized, max(largest, found.largest)
    task.facts |= {"oversized": oversized, "largest": largest}
    pairs = pa.concat_tables(likely)
    task.facts["candidates"] = pairs.num_rows
    task.send("candidates", pairs.select(_COLUMNS), homes.of(pairs["first"]))
    looks = pa.concat_tables(equal)
    task.send("looks", looks, homes.of(looks["original"]))


def _equal_looks(hashes: Array, looks: Array) -> tuple[Array, Found]:
    """Places of the first image of each look, and pairs of it with every other one.

    Images that look the same are like the same others; so if any stays, it is the first of them, and if it goes, the
    others go for the same one. They need not be compared with anything else: a thousand white images are a thousand
    pairs, not half a million.
    """
    order = np.lexsort((np.arange(len(looks)), hashes, looks))
    new = np.r_[True, (looks[order][1:] != looks[order][:-1]) | (hashes[order][1:] != hashes[order][:-1])]
    firsts = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    return np.sort(order[new]), Found(firsts[~new], order[~new])


def _pairs(images: pa.Table, first: Array, second: Array) -> pa.Table:
    """Pairs of rows from places in ``images``."""
    rows, preferences = images["row"].to_numpy(), images["preference"].to_numpy()
    columns = [rows[first], rows[second], preferences[first], preferences[second], np.zeros(len(first), np.int8)]
    return pa.table(columns, PAIRS)


def attach_first(homes: Homes, task: Task) -> None:
    """Stream ``half``: candidates with the thumbnail of their first image, to the home of the second."""
    pairs = task.receive("candidates", [("first", UP), ("second", UP)])
    thumbnails = _thumbnails(task, pairs["first"].to_numpy())
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(CELLS), len(thumbnails), [None, pa.py_buffer(thumbnails)])
    pairs = pairs.append_column("thumbnail", column)
    task.send("half", pairs, homes.of(pairs["second"]))


def confirm(config: Config, parts: int, task: Task) -> None:
    """Streams ``same-waits``, ``same-tells``: the candidates whose thumbnails agree."""
    pairs = task.receive("half", [("second", UP), ("first", UP)])
    theirs = _thumbnails(task, pairs["second"].to_numpy())
    ours = np.frombuffer(pairs["thumbnail"].combine_chunks().buffers()[1] or b"", np.uint8).reshape(-1, CELLS)
    agreed = pa.array(same(ours[: len(theirs)], theirs, config.max_difference))
    news = pa.array(np.zeros(pairs.num_rows, np.int8))
    confirmed = pairs.select(_COLUMNS).append_column("news", news).cast(PAIRS).filter(agreed)
    task.facts["pairs"] = confirmed.num_rows
    task.send("same-waits", confirmed, part_of(confirmed["second"], parts))
    task.send("same-tells", confirmed, part_of(confirmed["first"], parts))


def _thumbnails(task: Task, rows: Array) -> Array:
    """The thumbnails of ``rows``, of this home, which come in order: (n, CELLS) uint8. One shard is read at a time."""
    found = np.empty((len(rows), CELLS), np.uint8)
    for shard, _ in task.spec:
        low, high = np.searchsorted(rows, row_numbers(shard, 1)[0]), np.searchsorted(rows, row_numbers(shard + 1, 1)[0])
        if low == high:
            continue
        column = read_table(task.output.store, signatures_path(shard), ["thumbnail"])["thumbnail"].combine_chunks()
        every = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, CELLS)
        found[low:high] = every[rows[low:high] - row_numbers(shard, 1)[0]]
    return found

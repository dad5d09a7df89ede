"""The tasks of textdedup: from texts to bands, from bands to pairs, and pairs compared at the homes of both."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.arrays import begins_run
from infra.errors import DataError
from infra.exchange import DOWN, UP, Task
from infra.formats.shards import shard_name
from infra.run.context import Output
from infra.schema import Drop
from infra.store import Store
from pipelines.curate.dedup.clusters import EDGES, edges_of, send_edges
from pipelines.curate.dedup.files import originals_at
from pipelines.curate.dedup.homes import Homes, column_at_home, part_of, row_numbers
from pipelines.curate.dedup.pairs import distinct, in_any_order, send_confirmed
from pipelines.curate.dedup.preference import columns, preference
from pipelines.curate.dedup.verdicts import PENDING
from pipelines.curate.textdedup.config import Config
from pipelines.curate.textdedup.minhash import Bands
from pipelines.curate.textdedup.shingles import jaccard, mixed, shingles
from pipelines.tables import read_table, table_columns

__all__ = ["SCRATCH", "attach_first", "confirm", "find_pairs", "send_bands", "send_texts"]

Array = NDArray[Any]

SCRATCH = "scratch"
"""Folder of the shingles of each shard's rows, until all is done."""


ENTRIES = pa.schema(
    [
        *(("key", pa.uint64()), ("preference", pa.int64()), ("row", pa.int64())),
        *(("size", pa.int32()), ("sketch", pa.uint64())),
    ]
)
"""A text in the search, once for each of its bands."""

_PAIRS = 2_000_000  # that are made before equal ones become one
_COMPARED = 100_000  # pairs at once


def send_texts(config: Config, selection: Store, bands: Bands, parts: int, task: Task) -> None:
    """Stream ``texts``: the rows of a home that have words, by all their shingles, with their bands."""
    tables = []
    for shard, path in task.spec:
        if config.column not in table_columns(selection, path):
            raise DataError(
                f"{selection.locate(path)} has no column {config.column!r}",
                expected="a column of texts, as textdedup.column names it",
            )
        rows = read_table(selection, path, [config.column, *columns(config, selection, path)])
        hashes, bounds = shingles(rows[config.column].cast(pa.string()).to_pylist(), config.words)
        lists = pa.ListArray.from_arrays(pa.array(bounds.astype(np.int32)), pa.array(hashes))
        Output(task.output.store).write_table(_path(shard), pa.table({"shingles": lists}))
        some = np.flatnonzero(np.diff(bounds))
        own = np.r_[bounds[some], len(hashes)]
        keys, sketches = bands.keys(hashes, own)
        columns_of = {
            **_sums(hashes, own[:-1]),
            "preference": preference(rows, config)[some],
            "row": row_numbers(shard, rows.num_rows)[some],
            "size": np.diff(own).astype(np.int32),
            "sketch": sketches,
            "bands": pa.FixedSizeListArray.from_arrays(pa.array(keys.ravel()), bands.count),
        }
        tables.append(pa.table(columns_of))
    every = pa.concat_tables(tables)
    task.send("texts", every, part_of(every["text"], parts))


def _sums(hashes: Array, starts: Array) -> dict[str, Array]:
    """128 bits of each set of hashes: equal for equal sets."""
    none = np.empty(0, np.uint64)
    return {
        "text": np.add.reduceat(hashes, starts) if len(starts) else none,
        "text_rest": np.add.reduceat(mixed(hashes), starts) if len(starts) else none,
    }


def send_bands(homes: Homes, parts: int, task: Task) -> None:
    """Of texts with the same shingles all but the best are duplicates. Streams ``same-text``: (row, original, reason),
    to the original's home; ``edges-of-texts``; ``entries``: the others, by band (:data:`ENTRIES`)."""
    rows = task.receive("texts", [("preference", DOWN), ("row", UP)])
    originals = originals_at(rows, np.arange(rows.num_rows), ["text", "text_rest"])
    edges = edges_of(rows, originals)
    send_edges(task, "edges-of-texts", homes, edges)
    reasons = pa.array([Drop.DUPLICATE_TEXT.value] * edges.num_rows, pa.string())
    same = pa.table([edges["second"], edges["first"], reasons], schema=PENDING)
    task.send("same-text", same, homes.of(same["original"]))

    left = rows.filter(pa.array(originals == np.arange(rows.num_rows)))
    lists = left["bands"].combine_chunks()
    keys, owners = pc.list_flatten(lists), pc.list_parent_indices(lists)
    entries = pa.table([keys, *(left[name].take(owners) for name in ENTRIES.names[1:])], schema=ENTRIES)
    task.send("entries", entries, part_of(entries["key"], parts))


def find_pairs(config: Config, homes: Homes, bands: Bands, task: Task) -> None:
    """Stream ``candidates``: the pairs of texts that share a band and may be alike, to the first's home.

    A text is paired with the first ``max_bucket`` of its bucket, by preference.
    """
    entries = task.receive("entries", [("key", UP), ("preference", DOWN), ("row", UP)])
    key, preferences, rows, *looks = (column.to_numpy() for column in entries.columns)
    starts = np.flatnonzero(begins_run(key))
    sizes = np.diff(np.r_[starts, len(key)])
    task.facts |= {"oversized": int((sizes > config.max_bucket).sum()), "largest": int(sizes.max(initial=0))}
    found = EDGES.empty_table()
    for first, second in _within(np.repeat(starts, sizes), config.max_bucket):
        likely = _may_be_alike(config.threshold, bands, *((look[first], look[second]) for look in looks))
        first, second = first[likely], second[likely]
        some = pa.table([rows[first], rows[second], preferences[first], preferences[second]], schema=EDGES)
        found = distinct(pa.concat_tables([found, some]))
    task.facts["candidates"] = found.num_rows
    task.send("candidates", found, homes.of(found["first"]))


def _may_be_alike(threshold: float, bands: Bands, sizes: tuple[Array, Array], sketches: tuple[Array, Array]) -> Array:
    """False for pairs whose sizes differ too much for this similarity, or their sketches: (n,) bool."""
    fits = np.minimum(*sizes) >= threshold * np.maximum(*sizes) - 1e-6
    common = bands.bits - np.bitwise_count(sketches[0] ^ sketches[1])
    alike: Array = fits & (common >= bands.fewest_bits(threshold))
    return alike


def _within(starts: Array, most: int) -> Iterator[tuple[Array, Array]]:
    """Pairs of places of one bucket, the first among the bucket's first ``most``; some at a time.

    ``starts``: for each place, where its bucket starts.
    """
    left = np.arange(len(starts))
    first, second, count = [], [], 0
    for rank in range(most):
        left = left[left - starts[left] > rank]
        if not len(left):
            break
        first.append(starts[left] + rank)
        second.append(left)
        count += len(left)
        if count > _PAIRS:
            yield np.concatenate(first), np.concatenate(second)
            first, second, count = [], [], 0
    if count:
        yield np.concatenate(first), np.concatenate(second)


def attach_first(homes: Homes, task: Task) -> None:
    """Stream ``half``: candidates with the shingles of their first text, to the home of the second."""
    pairs = distinct(task.receive("candidates"))
    pairs = pairs.append_column("shingles", _shingles(task, pairs["first"].to_numpy()))
    task.send("half", pairs, homes.of(pairs["second"]))


def confirm(config: Config, homes: Homes, parts: int, task: Task) -> None:
    """Streams of :func:`~pipelines.curate.dedup.pairs.send_confirmed`: the candidates that are alike enough."""
    pairs = task.receive("half", [("first", UP), ("second", UP)])
    agreed = np.zeros(pairs.num_rows, bool)
    for start in range(0, pairs.num_rows, _COMPARED):
        some = pairs.slice(start, _COMPARED)
        theirs = in_any_order(some["second"].to_numpy(), partial(_shingles, task))
        similarity = jaccard(_flat(some["shingles"].combine_chunks()), _flat(theirs))
        agreed[start : start + some.num_rows] = similarity >= config.threshold
    send_confirmed(task, homes, parts, pairs.filter(pa.array(agreed)))


def _flat(lists: pa.ListArray) -> tuple[Array, Array]:
    """The values of all lists, and where those of each begin and end."""
    sizes = pc.list_value_length(lists).to_numpy()
    return pc.list_flatten(lists).to_numpy(), np.r_[0, np.cumsum(sizes)]


def _shingles(task: Task, rows: Array) -> pa.Array:
    """The shingles of ``rows``, of this home, which come in order: (n,) lists of uint64."""

    def read(shard: int, _: str) -> pa.Array:
        return read_table(task.output.store, _path(shard))["shingles"].combine_chunks()

    return column_at_home(task.spec, rows, read, pa.list_(pa.uint64()))


def _path(shard: int) -> str:
    return f"{SCRATCH}/shingles-{shard_name(shard)}.parquet"

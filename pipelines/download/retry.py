"""Retries: which rows of earlier downloads to attempt again, and with which columns.

Failures on the web are often temporary: a server is down for an hour, a name does not resolve today. A retry is a
download of its own whose input is the earlier ones. It takes the rows that failed for one of the chosen reasons and
writes them to shards numbered on from the last, so nothing that succeeded is touched and both folders can be merged.

A retried row is in two shards: as the failure it was, and, with the earlier key in ``retry_of``, with its new outcome.
So the accounts add up: images in all = kept(first) + kept(retry), rows in all = entered(first), and what is still
missing = dropped(first) - kept(retry).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.run.manifest import Artifact
from pipelines.layout import Images, downloads, image_shards
from pipelines.tables import concatenated, image_table

__all__ = ["RETRY_OF", "Pick", "read_picks", "rows_to_retry"]

RETRY_OF = "retry_of"
"""Column of a retried row: the key of the attempt before."""

_READERS = 16  # files read at once: a few columns of each shard are a small read, and most of it is waiting


@dataclass(frozen=True)
class Pick:
    """Rows of one shard that are to be retried, by their index in it."""

    shard: int
    rows: tuple[int, ...]


def rows_to_retry(
    inputs: Mapping[str, Artifact], reasons: Collection[str], samples_per_shard: int
) -> list[tuple[int, tuple[Pick, ...]]]:
    """Number and rows of each new shard: rows that failed for one of ``reasons`` and were not retried yet, in order."""
    images = Images.of(inputs)
    shards = [number for number, _ in image_shards(*downloads(inputs))]
    wanted = pa.array(sorted(map(str, reasons)), pa.string())
    failed: list[tuple[int, list[int], list[str]]] = []
    retried: set[str] = set()
    with ThreadPoolExecutor(_READERS) as pool:
        for shard, table in zip(shards, pool.map(lambda shard: _outcomes(images, shard), shards), strict=True):
            retried.update(table[RETRY_OF].to_pylist())
            indices = pc.indices_nonzero(pc.is_in(table["reason"], wanted))
            failed.append((shard, indices.to_pylist(), table["key"].take(indices).to_pylist()))
    picks = (
        Pick(shard, tuple(index for index, key in zip(indices, keys, strict=True) if key not in retried))
        for shard, indices, keys in failed
    )
    first = max(shards, default=-1) + 1
    return list(enumerate(_chunks(picks, samples_per_shard), start=first))


def _outcomes(images: Images, shard: int) -> pa.Table:
    """Columns ``key``, ``reason`` and ``retry_of`` of a shard."""
    with images.store(shard).open(images.path(shard)) as source, pq.ParquetFile(source) as file:
        known = [name for name in ("key", "reason", RETRY_OF) if name in file.schema_arrow.names]
        table = file.read(columns=known)
    for name in ("reason", RETRY_OF):  # img2dataset's own shards have neither
        if name not in known:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    return table


def _chunks(picks: Iterable[Pick], size: int) -> Iterator[tuple[Pick, ...]]:
    """Divide the rows of ``picks``, in order, into chunks of ``size``; the last may be smaller."""
    chunk: list[Pick] = []
    room = size
    for pick in picks:
        rows = pick.rows
        while rows:
            chunk.append(Pick(pick.shard, rows[:room]))
            rows, room = rows[room:], room - len(chunk[-1].rows)
            if not room:
                yield tuple(chunk)
                chunk, room = [], size
    if chunk:
        yield tuple(chunk)


def read_picks(images: Images, picks: Iterable[Pick]) -> pa.Table:
    """The rows of ``picks`` with the columns of their first attempt, and :data:`RETRY_OF`."""
    parts = []
    for pick in picks:
        table = image_table(images, pick.shard)
        rows = table.take(pa.array(pick.rows, pa.int64()))
        given = [name for name in table.column_names[: table.column_names.index("key")] if name != RETRY_OF]
        parts.append(rows.select(given).append_column(RETRY_OF, rows["key"]))
    return concatenated(parts)

"""The files of the frontier: what is in them, and how they are written and read.

``frontier/{generation}/{partition}.urls.parquet``   known and not fetched, in the order they are to be: by depth, then
                                                     first found first; with a reason those that never will be
``....seen.parquet``                                 16-byte hashes of all URLs known, fetched or not
``....hosts.parquet``, ``....patterns.parquet``      pages kept per host; what traps look like (pipelines.crawl.traps)
``....due.parquet``                                  what a round fetches, a row group per shard
``frontier/{generation}/{shard}.found.parquet``      what a round's pages link to, a row group per partition

Hosts and patterns are kept as 64-bit hashes, since what rows are grouped by needs no text; a URL is known by 128 bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.run.context import ShardOutput
from infra.run.manifest import ShardRecord
from infra.schema import Drop
from infra.store import Store
from pipelines.crawl.stage import Due
from pipelines.crawl.traps import hash64, pattern
from pipelines.web.urls import host_of

__all__ = [
    "Finds",
    "Found",
    "found_files",
    "path_of",
    "read_due",
    "read_found",
    "read_state",
    "write_found",
    "writer",
]

URL = [
    ("url", pa.string()),
    ("depth", pa.int32()),
    ("redirects", pa.int32()),
    ("listed", pa.bool_()),
    ("host", pa.uint64()),
    ("pattern", pa.uint64()),
]
WHY = [("reason", pa.string()), ("detail", pa.string())]
FOUND = pa.schema([("partition", pa.int32()), ("position", pa.int64()), ("key", pa.binary(16)), *URL, *WHY])
URLS = pa.schema([*URL, *WHY])
DUE = pa.schema([("row", pa.int64()), ("position", pa.int64()), *URL])
SEEN = pa.schema([("key", pa.binary(16))])
HOSTS = pa.schema([("host", pa.uint64()), ("pages", pa.int64())])
_GROUP = pa.struct([("pictures", pa.uint64()), ("simhash", pa.uint64()), ("pages", pa.int64())])
PATTERNS = pa.schema(
    [("pattern", pa.uint64()), ("pages", pa.int64()), ("groups", pa.list_(_GROUP)), ("trap", pa.bool_())]
)
OUTCOME = pa.schema([("reason", pa.string()), ("pictures", pa.uint64()), ("simhash", pa.uint64())])
_TABLES = {"urls": URLS, "hosts": HOSTS, "patterns": PATTERNS}
UNVISITED = pa.schema([("url", pa.string()), ("depth", pa.int32()), *WHY])
ROWS = 1 << 20  # of a row group


class Found(NamedTuple):
    """A URL found on the page fetched at ``position`` of its round. ``reason``: why it will not be fetched."""

    position: int
    due: Due
    reason: Drop | None = None
    detail: str = ""


class Finds:
    """What a shard found, each URL once: where it is least deep, and of these where it was found first."""

    def __init__(self, rows: Iterable[Found] = ()) -> None:
        self._best: dict[str, Found] = {}
        self.add(rows)

    def add(self, rows: Iterable[Found]) -> None:
        for row in rows:
            known = self._best.setdefault(row.due.url, row)
            if (row.due.depth, row.position) < (known.due.depth, known.position):
                self._best[row.due.url] = row

    def __len__(self) -> int:
        return len(self._best)

    def __iter__(self) -> Iterator[Found]:
        return iter(self._best.values())


def write_found(output: ShardOutput, generation: int, name: str, finds: Finds, partitions: int) -> None:
    """Keep what a shard found, a row group per partition."""
    records = []
    for position, due, reason, detail in finds:
        host, key = hash64(host_of(due.url)), hashlib.blake2b(due.url.encode(), digest_size=16).digest()
        records.append((host % partitions, position, key, *due, host, hash64(pattern(due.url)), reason, detail))
    columns = zip(*records, strict=True) if records else ((),) * len(FOUND)
    table = pa.table(list(map(pa.array, columns, FOUND.types)), FOUND)
    home = table["partition"].to_numpy()
    with output.open(f"frontier/{generation:04d}/{name}.found.parquet") as sink, writer(sink, FOUND) as rows:
        for number in np.unique(home):
            rows.write_table(table.filter(pa.array(home == number)))


def found_files(record: ShardRecord) -> list[str]:
    """Those of a committed shard that :func:`write_found` wrote."""
    return [file.path for file in record.files if file.path.endswith(".found.parquet")]


def read_found(store: Store, paths: Sequence[str], partition: int) -> pa.Table:
    """What the shards of a round found for one partition, each URL once, in the order to fetch them."""
    tables = [FOUND.empty_table()]
    for path in paths:
        with store.open(path) as source:
            tables.append(pq.read_table(source, filters=[("partition", "=", partition)], schema=FOUND))
    table = pa.concat_tables(tables)
    order = np.lexsort((table["position"].to_numpy(), table["depth"].to_numpy()))  # stable: links of a page in order
    table = table.take(pa.array(order)).combine_chunks()
    keys = table["key"].combine_chunks().dictionary_encode()
    _, first = np.unique(keys.indices.to_numpy(), return_index=True)
    return table.take(pa.array(np.sort(first)))


def read_due(store: Store, generation: int, partition: int, group: int) -> list[tuple[int, Due]]:
    """(position in the round, URL) of one shard, in the order to start them."""
    with store.open(path_of(generation, partition, "due")) as source:
        table = pq.ParquetFile(source).read_row_group(group, ["position", "url", "depth", "redirects", "listed"])
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return [(position, Due(*due)) for position, *due in rows]


def path_of(generation: int, partition: int, name: str) -> str:
    return f"frontier/{generation:04d}/{partition:03d}.{name}.parquet"


def read_state(store: Store, generation: int, partition: int, name: str) -> pa.Table:
    """``urls``, ``hosts`` or ``patterns``. Generation 0 is empty: what is injected becomes the first."""
    if not generation:
        return _TABLES[name].empty_table()
    with store.open(path_of(generation, partition, name)) as source:
        return pq.read_table(source)


@contextmanager
def writer(sink: Any, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:  # noqa: ANN401 - the store's writer
    with pq.ParquetWriter(sink, schema, compression="zstd") as rows:
        yield rows

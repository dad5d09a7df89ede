"""Another try for rows that failed: which they are, and how they stood before their first try.

The web fails in passing: a server is down for an hour, a name does not resolve today. A retry is a download of its own
whose input is the earlier ones. It takes the rows that failed for one of the chosen reasons and writes them to shards
numbered on from the last, so nothing that succeeded is touched and both folders can be put together as one.

A row tried again is in two shards: as the failure it was, and, with the earlier key in ``retry_of``, as what became of
it. So the accounts add up: images in all = kept(first) + kept(retry), rows in all = entered(first), and what is still
missing = dropped(first) - kept(retry).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.run.manifest import Artifact
from pipelines.tables import Images, downloads, image_shards

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RETRY_OF", "Pick", "due", "read_picks"]

RETRY_OF = "retry_of"
"""Column of a retried row: the key of the attempt before."""

_READERS = 16  # files read at once: a column of each shard is a small read, and most of it is waiting


@dataclass(frozen=True)
class Pick:
    """Rows of one shard that are to be tried again, by their place in it."""

    shard: int
    rows: tuple[int, ...]


def due(
    inputs: Mapping[str, Artifact], reasons: Collection[str], samples_per_shard: int
) -> list[tuple[int, tuple[Pick, ...]]]:
    """Number and rows of each new shard: what failed for one of ``reasons`` and was not tried again since, in order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    images = Images.of(inputs)
    shards = [number for number, _ in image_shards(*downloads(inputs))]
    wanted = pa.array(sorted(map(str, reasons)), pa.string())
    failed: list[tuple[int, list[int], list[str]]] = []
    again: set[str] = set()
    with ThreadPoolExecutor(_READERS) as pool:
        for shard, table in zip(shards, pool.map(lambda shard: _account(images, shard), shards), strict=True):
            again.update(table[RETRY_OF].to_pylist())
            places = pc.indices_nonzero(pc.is_in(table["reason"], wanted))
            failed.append((shard, places.to_pylist(), table["key"].take(places).to_pylist()))
    picks = (
        Pick(shard, tuple(place for place, key in zip(places, keys, strict=True) if key not in again))
        for shard, places, keys in failed
    )
    first = max(shards, default=-1) + 1
    return list(enumerate(_lots(picks, samples_per_shard), start=first))


def _account(images: Images, shard: int) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with images.store(shard).open(images.path(shard)) as source, pq.ParquetFile(source) as file:
        known = [name for name in ("key", "reason", RETRY_OF) if name in file.schema_arrow.names]
        table = file.read(columns=known)
    if RETRY_OF not in known:
        table = table.append_column(RETRY_OF, pa.nulls(table.num_rows, pa.string()))
    return table


def _lots(picks: Iterable[Pick], size: int) -> Iterator[tuple[Pick, ...]]:
    lot: list[Pick] = []
    room = size
    for pick in picks:
        rows = pick.rows
        while rows:
            lot.append(Pick(pick.shard, rows[:room]))
            rows, room = rows[room:], room - len(lot[-1].rows)
            if not room:
                yield tuple(lot)
                lot, room = [], size
    if lot:
        yield tuple(lot)


def read_picks(images: Images, picks: Iterable[Pick]) -> pa.Table:
    """The rows of ``picks`` with the columns they were first tried with, and :data:`RETRY_OF`."""
    import pyarrow as pa

    parts = []
    for pick in picks:
        table = images.table(pick.shard)
        rows = table.take(pa.array(pick.rows, pa.int64()))
        given = [name for name in table.column_names[: table.column_names.index("key")] if name != RETRY_OF]
        parts.append(rows.select(given).append_column(RETRY_OF, rows["key"]))
    return pa.concat_tables(parts)

"""Last steps of dedup, at the rows' homes: the selection, from the verdicts that came back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from infra.exchange import UP, Exchange, Task
from infra.hashing import hash64
from infra.run.manifest import Funnel
from infra.run.pieces import Records
from infra.store import Store
from pipelines.curate import gallery
from pipelines.curate.dedup.captions import pool, pooled, send_captions
from pipelines.curate.dedup.config import Staying
from pipelines.curate.dedup.homes import Homes, places_of, row_numbers, split_row
from pipelines.curate.dedup.verdicts import DUPLICATES
from pipelines.layout import funnel
from pipelines.tables import read_table, with_column, write_selection

__all__ = ["write_kept"]

log = logging.getLogger(__name__)

_SAMPLED = 64  # homes that give samples to the figures
_SAMPLES = gallery.COUNT // 2  # of duplicates of a kind, in its figure: each beside what was kept instead

Begin = Callable[[Store, int, pa.Table], tuple[pa.Table, list[str | None]]]


def write_kept(
    exchange: Exchange,
    config: Staying,
    selection: Store,
    homes: Homes,
    lots: Sequence[Sequence[tuple[int, str]]],
    begin: Begin,
    cluster: str,
) -> tuple[Records, dict[str, Any]]:
    """Write the selection from the streams ``verdicts`` and ``clusters``; the records of its homes, and facts.

    ``begin``: adds columns to a shard's rows, and tells why some go whatever the verdicts. ``cluster``: the column of
    the clusters' names.
    """
    streams = ["verdicts"]
    if pooled(config):
        streams = ["settled", "captions"]
        work = partial(send_captions, config, selection, homes)
        exchange.step("captions", lots, work, receives=["verdicts"], sends=dict.fromkeys(streams, homes.count))
    work = partial(_write_shards, config, selection, begin, cluster, streams[0])
    records = exchange.step("selection", lots, work, receives=[*streams, "clusters"])
    capped = sum(record.facts["capped_captions"] for record in records)
    if capped:
        log.warning("%d rows have more captions than max_captions=%d", capped, config.max_captions)
    return records, {"capped_captions": capped} if capped else {}


def _write_shards(config: Staying, selection: Store, begin: Begin, cluster: str, stream: str, task: Task) -> None:
    """Write the selection of the shards of a home from its verdicts, the ``stream``; the facts have samples of them."""
    verdicts = task.receive(stream, [("row", UP)])
    clusters = task.receive("clusters", [("row", UP)])
    captions = task.receive("captions", [("original", UP)]) if "captions" in task.inbox else None
    rows, originals, uids, reasons = (verdicts[name].to_pylist() for name in ("row", "original", "uid", "reason"))
    told = {row: (uid, reason) for row, uid, reason in zip(rows, uids, reasons, strict=True)}
    total: Funnel = funnel("images", [])
    capped = 0
    for shard, path in task.spec:
        table, own_reasons = begin(task.output.store, shard, read_table(selection, path))
        own = zip(table["uid"].to_pylist(), own_reasons, strict=True)
        numbers = row_numbers(shard, table.num_rows)
        found = [told.get(number, pair) for number, pair in zip(numbers.tolist(), own, strict=True)]
        table = with_column(table, cluster, _clusters(table["uid"], _slice(clusters, "row", shard)))
        names = zip(found, table["uid"].to_pylist(), strict=True)
        originals_of = pa.array([uid if uid != name else None for (uid, _), name in names], pa.string())
        if not config.drop:
            table = with_column(table, "duplicate_of", originals_of)
        final = [None if reason in DUPLICATES and not config.drop else reason for _, reason in found]
        if captions is not None:
            stays = np.array([reason is None for reason in final], bool)
            table, many = pool(config, table, numbers, stays, _slice(captions, "original", shard))
            capped += many
        total += write_selection(task.output, shard, table, final, {"duplicate_of": originals_of})
    task.funnel = total
    task.facts["capped_captions"] = capped
    if task.number < _SAMPLED:
        task.facts["duplicates"] = _samples(rows, originals, reasons)


def _slice(rows: pa.Table, name: str, shard: int) -> pa.Table:
    """Those of ``rows``, in order of the column ``name``, that it says are of the shard."""
    own = places_of(rows[name].to_numpy(), shard)
    return rows.slice(own.start, own.stop - own.start)


def _clusters(uids: pa.ChunkedArray, named: pa.Table) -> pa.Array:
    """The cluster of each row of a shard: its own ``uid`` but where another is ``named``."""
    clusters = uids.to_numpy().copy()
    clusters[[split_row(row)[1] for row in named["row"].to_pylist()]] = named["cluster"].to_numpy()
    return pa.array(clusters, pa.string())


def _samples(rows: list[int], originals: list[int], reasons: list[str]) -> dict[str, list[tuple[int, int]]]:
    """A few rows and their originals, for each reason."""
    found: dict[str, list[tuple[int, int]]] = {}
    order = np.argsort([hash64(str(row)) for row in rows], kind="stable").tolist()
    for place in order:
        chosen = found.setdefault(reasons[place], [])
        if len(chosen) < _SAMPLES and rows[place] != originals[place]:
            chosen.append((rows[place], originals[place]))
    return found

"""Last step of dedup, at the rows' homes: the selection, from the verdicts that came back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from infra.exchange import UP, Task
from infra.hashing import hash64
from infra.run.manifest import Funnel
from infra.store import Store
from pipelines.curate import gallery
from pipelines.curate.dedup.captions import pool
from pipelines.curate.dedup.config import Config
from pipelines.curate.dedup.homes import places_of, row_numbers, split_row
from pipelines.curate.dedup.rows import signatures_path
from pipelines.curate.dedup.verdicts import DUPLICATES
from pipelines.layout import funnel
from pipelines.tables import read_table, with_column, write_selection

__all__ = ["write_shards"]

_SAMPLES = gallery.COUNT // 2  # of duplicates of a kind, in its figure: each beside what was kept instead


def write_shards(config: Config, selection: Store, sampled: int, stream: str, task: Task) -> None:
    """Write the selection of the shards of a home from its verdicts, the ``stream``; the facts have samples of them.

    ``sampled``: the number of homes of which samples are taken.
    """
    verdicts = task.receive(stream, [("row", UP)])
    clusters = task.receive("clusters", [("row", UP)])
    captions = task.receive("captions", [("original", UP)]) if "captions" in task.inbox else None
    rows, originals, uids, reasons = (verdicts[name].to_pylist() for name in ("row", "original", "uid", "reason"))
    told = {row: (uid, reason) for row, uid, reason in zip(rows, uids, reasons, strict=True)}
    total: Funnel = funnel("images", [])
    capped = 0
    for shard, path in task.spec:
        table = read_table(selection, path)
        signatures = read_table(task.output.store, signatures_path(shard), ["phash", "reason"])
        known = zip(signatures["phash"].to_pylist(), signatures["reason"].to_pylist(), strict=True)
        phash = pa.array([None if reason else f"{value:016x}" for value, reason in known], pa.string())
        table = with_column(table, "phash", phash)
        own = zip(table["uid"].to_pylist(), signatures["reason"].to_pylist(), strict=True)
        numbers = row_numbers(shard, table.num_rows)
        found = [told.get(number, pair) for number, pair in zip(numbers.tolist(), own, strict=True)]
        table = with_column(table, "cluster", _clusters(table["uid"], _slice(clusters, "row", shard)))
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
    if task.number < sampled:
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

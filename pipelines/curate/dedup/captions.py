"""Captions of images that are one, pooled at the row that stays: all of them, one of each language, or the best."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.arrays import begins_run, ranges
from infra.exchange import DOWN, UP, Task
from infra.store import Store
from pipelines.curate.captions import own_captions, pooled_captions
from pipelines.curate.dedup.config import Staying
from pipelines.curate.dedup.homes import Homes, places_of, row_numbers
from pipelines.curate.dedup.preference import preference, scores
from pipelines.curate.filter import texts
from pipelines.tables import read_table, with_column

__all__ = ["pool", "pooled", "send_captions"]

Array = NDArray[Any]

POOL = pa.schema(
    [
        ("original", pa.int64()),  # the row that stays
        *(("score", pa.int64()), ("preference", pa.int64())),
        *(("row", pa.int64()), ("place", pa.int32())),  # whose caption it is, and which of its captions
        *(("caption", pa.string()), ("language", pa.string())),
    ]
)
"""A caption of an image; the row that stays has its own before those of others."""
_ORDER = [("original", UP), ("score", DOWN), ("preference", DOWN), ("row", UP), ("place", UP)]


def pooled(config: Staying) -> bool:
    return config.drop and config.captions != "own"


def send_captions(config: Staying, selection: Store, homes: Homes, task: Task) -> None:
    """Stream ``captions``: those of the duplicates among the rows of a home, to the home of what stays instead.

    Stream ``settled``: the verdicts, again to this home.
    """
    verdicts = task.receive("verdicts", [("row", UP)])
    task.send("settled", verdicts, np.full(verdicts.num_rows, task.number))
    gone = verdicts.filter(pc.not_equal(verdicts["row"], verdicts["original"]))
    row, original = gone["row"].to_numpy(), gone["original"].to_numpy()
    found = [POOL.empty_table()]
    for shard, path in task.spec:
        own = places_of(row, shard)
        if own.start < own.stop:
            rows = read_table(selection, path).take(pa.array(row[own] - row_numbers(shard, 1)[0]))
            found.append(_captions(config, rows, row[own], original[own]))
    # One more than stays tells that some were left out.
    best = _best(config, pa.concat_tables(found), config.max_captions + 1)
    task.send("captions", best, homes.of(best["original"]))


def pool(config: Staying, rows: pa.Table, numbers: Array, stays: Array, others: pa.Table) -> tuple[pa.Table, int]:
    """``rows`` of a shard, of which those that ``stays`` says have the pooled captions; how many have too many.

    ``numbers``: of the rows. ``others``: captions of duplicates (:data:`POOL`) of them.
    """
    own = _captions(config, rows.filter(pa.array(stays)), numbers[stays], numbers[stays])
    found = _best(config, pa.concat_tables([own, others]), config.max_captions + 1)
    original = found["original"].to_numpy()
    begins, ends = np.searchsorted(original, numbers), np.searchsorted(original, numbers, side="right")
    if config.captions == "best":
        best = pa.array(np.where(begins < ends, begins, 0), mask=begins == ends)
        return with_column(rows, "caption", pc.coalesce(found["caption"].take(best), rows["caption"])), 0
    sizes = np.minimum(ends - begins, config.max_captions)
    chosen = found["caption"].combine_chunks().take(pa.array(ranges(begins, sizes)))
    offsets = pa.array(np.r_[0, np.cumsum(sizes)].astype(np.int32))
    lists = pa.ListArray.from_arrays(offsets, chosen, mask=pa.array(~stays))
    return with_column(rows, "captions", lists), int((ends - begins > config.max_captions).sum())


def _captions(config: Staying, rows: pa.Table, numbers: Array, originals: Array) -> pa.Table:
    """All captions of ``rows``, or those that were pooled there before, as :data:`POOL`."""
    preferences = preference(rows, config)
    by_score = scores(rows, config.score) if config.captions == "best" else np.zeros(rows.num_rows, np.int64)
    several = "captions" in rows.column_names and config.captions != "best"
    lists = pooled_captions(rows) if several else own_captions(rows["caption"])
    owner, caption = pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists)
    place = np.arange(len(owner)) - np.searchsorted(owner, owner)
    language = pa.nulls(len(caption), pa.string())
    if config.captions == "by_language":
        known = not several and "caption_language" in rows.column_names
        language = rows["caption_language"].take(pa.array(owner)) if known else texts.language(caption)
    columns = [originals[owner], by_score[owner], preferences[owner], numbers[owner], place, caption, language]
    table = pa.table(dict(zip(POOL.names, columns, strict=True))).cast(POOL)
    return table.filter(pc.not_equal(pc.utf8_trim_whitespace(table["caption"]), ""))


def _best(config: Staying, pool: pa.Table, most: int) -> pa.Table:
    """The first ``most`` captions of each original, in the order of the pool; of each language one, or one in all."""
    pool = pool.sort_by(_ORDER)
    original = pool["original"].to_numpy()
    if config.captions == "best":
        return pool.filter(pa.array(begins_run(original)))
    name = "language" if config.captions == "by_language" else "caption"
    kinds = pc.fill_null(pool[name], "").combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.lexsort((kinds, original))  # stable: of equals the first comes first
    pool = pool.take(pa.array(np.sort(order[begins_run(original[order], kinds[order])])))
    original = pool["original"].to_numpy()
    return pool.filter(pa.array(np.arange(len(original)) - np.searchsorted(original, original) < most))

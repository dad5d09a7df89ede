"""Galleries of dedup: images kept and, by reason, images dropped, duplicates with the image kept instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc

from infra.formats.shards import shard_name
from infra.hashing import hash64
from infra.run.context import Context
from infra.run.manifest import ShardRecord
from infra.store import Store
from pipelines.curate import gallery
from pipelines.curate.dedup.homes import split_row
from pipelines.curate.dedup.verdicts import DUPLICATES
from pipelines.layout import Images
from pipelines.tables import read_table

__all__ = ["SAMPLED", "draw_figures"]

SAMPLED = 64  # shards: enough for a fair impression
_PAIRS = gallery.COUNT // 2


def draw_figures(
    context: Context,
    images: Images,
    selection: Store,
    shards: Sequence[tuple[int, str, int]],
    found: Sequence[ShardRecord],
    *,
    drop: bool,
) -> None:
    """Draw galleries of the selection just written. ``found``: the records of its homes, with samples of duplicates,
    which were dropped or only marked."""
    names = [shard_name(number) for number, *_ in shards[:SAMPLED]]
    kept = (read_table(context.store, f"data/kept-{name}.parquet") for name in names)
    gallery.of_rows(context, images, "kept", kept)
    dropped = [read_table(context.store, f"data/dropped-{name}.parquet") for name in names]
    for reason in sorted({reason for table in dropped for reason in table["reason"].unique().to_pylist()} - DUPLICATES):
        tables = [table.filter(pc.equal(table["reason"], reason)) for table in dropped]
        gallery.of_rows(context, images, f"dropped_{reason}", tables)
    paths = {number: path for number, path, _ in shards}
    for reason in sorted(DUPLICATES):
        samples = [tuple(pair) for record in found for pair in record.facts.get("duplicates", {}).get(reason, ())]
        chosen = sorted(samples, key=lambda pair: hash64(str(pair[0])))[:_PAIRS]
        rows = [_row(selection, paths, row) for pair in chosen for row in pair]
        if rows:
            name = f"{'dropped' if drop else 'marked'}_{reason}"
            gallery.draw(context, images, name, rows, ["duplicate", "original"] * len(chosen))


def _row(selection: Store, paths: dict[int, str], number: int) -> dict[str, Any]:
    shard, place = split_row(number)
    row: dict[str, Any] = read_table(selection, paths[shard]).slice(place, 1).to_pylist()[0]
    return row

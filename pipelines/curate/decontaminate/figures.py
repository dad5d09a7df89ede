"""Figures of decontamination: what is kept, and images of test sets, each with what was dropped for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc

from infra.formats.shards import shard_name
from infra.hashing import hash64
from infra.run.context import Context
from infra.run.manifest import ShardRecord
from infra.schema import Drop
from pipelines.curate import gallery
from pipelines.curate.decontaminate.index import TestShard
from pipelines.layout import Images, read_images
from pipelines.tables import read_table

__all__ = ["draw"]

_SHARDS = 64  # looked at: enough for an impression


def draw(context: Context, images: Images, tests: Sequence[TestShard], records: Sequence[ShardRecord]) -> None:
    """Draw ``kept`` and ``dropped_{reason}``; with each contaminated image its nearest test image."""
    few = [record.shard for record in records[:_SHARDS]]
    gallery.of_rows(context, images, "kept", [read_table(context.store, f"data/kept-{name}.parquet") for name in few])
    dropped = [read_table(context.store, f"data/dropped-{name}.parquet") for name in few]
    for reason in sorted({one for table in dropped for one in table["reason"].unique().to_pylist()}):
        if reason != Drop.CONTAMINATED:
            tables = [table.filter(pc.equal(table["reason"], reason)) for table in dropped]
            gallery.of_rows(context, images, f"dropped_{reason}", tables)

    samples = [(record.shard, *sample) for record in records for sample in record.facts["samples"]]
    if chosen := sorted(samples, key=lambda one: hash64(f"{one[1]}/{one[2]}"))[: gallery.COUNT // 2]:
        tiles = [tile for one in chosen for tile in _pair(context, images, tests, *one)]
        title = "Dropped: contaminated, each beside its nearest test image"
        context.figure(f"dropped_{Drop.CONTAMINATED.value}", gallery.montage(title, tiles))


def _pair(
    context: Context, images: Images, tests: Sequence[TestShard], shard: str, uid: str, key: str, test: int, name: str
) -> list[gallery.Tile]:
    """A dropped image, with the reason in figures, and the test image."""
    rows = read_table(context.store, f"data/dropped-{shard_name(int(shard))}.parquet")
    ours = pc.and_(pc.equal(rows["uid"], uid), pc.equal(rows["key"], key))
    row: dict[str, Any] = rows.filter(ours).slice(0, 1).to_pylist()[0]
    bits, cosine = row["test_distance"], row.get("test_cosine")
    why = [f"{bits} bits"] * (bits is not None) + [f"cosine {cosine or 0:.3f}"] * (cosine is not None)
    theirs = next((data for found, data in tests[test].examples.encoded(tests[test].shard) if found == name), None)
    (image,) = read_images(images, [row])
    return [
        gallery.Tile(image, row["caption"] or "", f"dropped, {', '.join(why)}"),
        gallery.Tile(theirs, row["nearest_test"], "test image"),
    ]

"""One copy of each picture: duplicates by their bytes, then by what they show, across the whole selection.

Of each group the largest original stays, the first of equals; every other row says whose duplicate it is. Hashing
runs shard by shard on the cluster, the comparison of all with all needs some 900 bytes an image in one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from infra.cluster import Limits, run_shards
from infra.config import Input, Runtime, StageConfig
from infra.formats.shards import shard_name
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact, Manifest, ShardRecord
from infra.schema import Drop
from infra.store import Store
from pipelines.tables import Images, funnel, read_images, read_table, selection_shards, write_selection

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Config", "decide", "run"]


class Config(StageConfig):
    inputs: ClassVar[Mapping[str, Input]] = {
        "images": Input("images", repeated=True),
        "selection": Input("selection"),
    }
    produces: ClassVar[tuple[str, ...]] = ("selection",)

    near: bool = Field(True, description="also drop re-encoded and resized copies, not just equal files")
    max_distance: int = Field(6, ge=0, le=15, description="bits two perceptual hashes may differ in, of 64")
    max_difference: float = Field(
        40.0, ge=0, le=255, description="levels the most different parts of two thumbnails may differ by, of 255"
    )
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``selection`` of ``images`` -> a selection with a column ``phash``; dropped rows with ``duplicate_of``, a uid."""
    import pyarrow as pa

    images, selection = Images.of(inputs), inputs["selection"]
    shards = selection_shards(selection)
    specs = [(shard_name(shard), (shard, path)) for shard, path in shards]
    records = run_shards(context, specs, partial(_hash, images, selection.store), config.limits)
    if not shards:
        return context.finish(records, funnel=funnel("images", []))
    tables = [read_table(selection.store, path) for _, path in shards]
    rows = pa.concat_tables(tables)
    signatures = pa.concat_tables(
        [read_table(context.store, f"data/signatures-{shard_name(shard)}.parquet") for shard, _ in shards]
    )
    rows = rows.append_column("phash", pa.array([f"{value:016x}" for value in signatures["phash"].to_pylist()]))
    reasons, originals = decide(rows, signatures, config)
    duplicate_of = rows["uid"].take(pa.array(originals))
    total, start = funnel("images", []), 0
    for (shard, _), table in zip(shards, tables, strict=True):
        part = slice(start, start + table.num_rows)
        notes = {"duplicate_of": duplicate_of[part]}
        total += write_selection(context.output, shard, rows[part], reasons[part], notes)
        start = part.stop
    _figures(context, images, rows, reasons, originals)
    return context.finish(records, funnel=total)


def _hash(images: Images, selection: Store, spec: tuple[int, str], output: ShardOutput) -> ShardRecord:
    """``data/signatures-{shard}.parquet``: hash and thumbnail of each row of a selection's shard, in its order."""
    import pyarrow as pa

    from pipelines.curate.dedup.signatures import CELLS, signature

    shard, path = spec
    rows = read_table(selection, path, ["shard", "key"]).to_pylist()
    found = [signature(image) for image in read_images(images, rows)]
    columns = {
        "phash": pa.array([phash for phash, _ in found], pa.uint64()),
        "thumbnail": pa.array([thumbnail for _, thumbnail in found], pa.binary(CELLS)),
    }
    output.write_table(f"data/signatures-{shard_name(shard)}.parquet", pa.table(columns))
    return output.commit()


def decide(rows: pa.Table, signatures: pa.Table, config: Config) -> tuple[list[str | None], list[int]]:
    """For each row why it goes, or None, and the row that stays in its place, itself if it stays."""
    import numpy as np

    from pipelines.curate.dedup.signatures import CELLS, leaders

    width, height = (rows[name].to_numpy().astype(np.int64) for name in ("original_width", "original_height"))
    order = np.argsort(-width * height, kind="stable").tolist()
    reasons: list[str | None] = [None] * len(order)
    originals = list(range(len(order)))
    shas = rows["sha256"].to_pylist()
    first: dict[str, int] = {}
    for row in order:
        # A row without a digest is like no other; sharing the empty one would leave a single row of them all.
        originals[row] = first.setdefault(shas[row], row) if shas[row] else row
        if originals[row] != row:
            reasons[row] = Drop.DUPLICATE_BYTES.value
    if config.near and order:
        distinct = np.array([row for row in order if reasons[row] is None], np.int64)
        hashes = signatures["phash"].to_numpy()[distinct]
        buffer = signatures["thumbnail"].combine_chunks()
        thumbnails = np.frombuffer(buffer.buffers()[1], np.uint8)[: len(order) * CELLS].reshape(-1, CELLS)[distinct]
        places = leaders(hashes, thumbnails, config.max_distance, config.max_difference)
        for row, original in zip(distinct.tolist(), distinct[places].tolist(), strict=True):
            if original != row:
                originals[row], reasons[row] = original, Drop.NEAR_DUPLICATE.value
    return reasons, [originals[original] for original in originals]


def _figures(
    context: Context, images: Images, rows: pa.Table, reasons: Sequence[str | None], originals: Sequence[int]
) -> None:
    """Each reason's gallery shows the row dropped and, on its right, the one that stays in its place."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipelines.curate import gallery

    places = rows.append_column("place", pa.array(range(rows.num_rows)))
    reason = pa.array(reasons, pa.string())
    gallery.figure(context, images, "kept", [places.filter(reason.is_null())])
    for name in sorted({why for why in reasons if why}):
        drawn = gallery.draw([places.filter(pc.equal(reason, name))], gallery.COUNT // 2)
        pairs = [
            row for dropped in drawn for row in (dropped, places.slice(originals[dropped["place"]], 1).to_pylist()[0])
        ]
        gallery.show(context, images, f"dropped_{name}", pairs, ["dropped", "kept"] * len(drawn))

"""Find duplicates: signatures shard by shard, then the groups over all rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import DataError
from infra.formats.shards import shard_name
from infra.rows import counted, row_error
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Funnel, ShardRecord
from infra.schema import Drop
from infra.store import Store
from pipelines.curate import gallery
from pipelines.curate.dedup.config import Config
from pipelines.curate.dedup.signatures import CELLS, leaders, signature
from pipelines.download.hosts import host
from pipelines.layout import Images, funnel, read_images
from pipelines.tables import concatenated, read_table, with_column, write_selection

__all__ = ["decide", "drop_duplicates", "hash_shard", "placeholders"]

_DUPLICATES = frozenset({Drop.DUPLICATE_BYTES, Drop.NEAR_DUPLICATE})


def hash_shard(images: Images, selection: Store, spec: tuple[int, str], output: ShardOutput) -> ShardRecord:
    """Write ``data/signatures-{shard}.parquet``: hash and thumbnail of each row of a selection's shard, or the reason
    why its image has none."""
    shard, path = spec
    rows = read_table(selection, path, ["shard", "key"]).to_pylist()
    errors: list[str] = []
    found = [_signature(image, errors) for image in read_images(images, rows)]
    columns = {
        "phash": pa.array([phash for phash, _, _ in found], pa.uint64()),
        "thumbnail": pa.array([thumbnail for _, thumbnail, _ in found], pa.binary(CELLS)),
        "reason": pa.array([reason for *_, reason in found], pa.string()),
    }
    output.write_table(f"data/signatures-{shard_name(shard)}.parquet", pa.table(columns))
    return output.commit(facts=counted(errors, len(rows)))


def _signature(image: bytes | None, errors: list[str]) -> tuple[int, bytes, Drop | None]:
    """Hash and thumbnail of an image, or zeros and the reason why it has none."""
    if image is None:
        return 0, bytes(CELLS), Drop.MISSING
    try:
        return *signature(image), None
    except DataError:
        return 0, bytes(CELLS), Drop.DECODE
    except Exception as error:  # noqa: BLE001 - see infra.rows
        errors.append(row_error(error))
        return 0, bytes(CELLS), Drop.UNFORESEEN


def drop_duplicates(
    config: Config, images: Images, selection: Store, shards: Sequence[tuple[int, str]], context: Context
) -> Funnel:
    """Write the selection without duplicates, and galleries; the funnel of all rows, in images."""
    total, start = funnel("images", []), 0
    if not shards:
        return total
    tables = [read_table(selection, path) for _, path in shards]
    signatures = pa.concat_tables(
        [read_table(context.store, f"data/signatures-{shard_name(shard)}.parquet") for shard, _ in shards]
    )
    known = zip(signatures["phash"].to_pylist(), signatures["reason"].to_pylist(), strict=True)
    phash = pa.array([None if reason else f"{value:016x}" for value, reason in known], pa.string())
    rows = with_column(concatenated(tables), "phash", phash)
    reasons, originals = decide(rows, signatures, config)
    duplicate_of = rows["uid"].take(pa.array(originals, pa.int64()))
    for (shard, _), table in zip(shards, tables, strict=True):
        part = slice(start, start + table.num_rows)
        notes = {"duplicate_of": duplicate_of[part]}
        total += write_selection(context.output, shard, rows[part], reasons[part], notes)
        start = part.stop
    _figures(context, images, rows, reasons, originals)
    return total


def decide(rows: pa.Table, signatures: pa.Table, config: Config) -> tuple[list[str | None], list[int]]:
    """For each row the reason to drop it, or None, and the index of the row kept instead of it, else its own."""
    width, height = (rows[name].to_numpy().astype(np.int64) for name in ("original_width", "original_height"))
    order = np.argsort(-width * height, kind="stable").tolist()
    reasons: list[str | None] = signatures["reason"].to_pylist()
    originals = list(range(len(order)))
    shas = rows["sha256"].to_pylist()
    stand_ins = placeholders(rows, config.placeholder_names) if config.placeholder_names else set()
    first: dict[str, int] = {}
    for row in order:
        if shas[row] in stand_ins:
            reasons[row] = Drop.PLACEHOLDER.value
        if reasons[row]:
            continue
        # A row without a digest equals no other: as equal empty digests all of them would be one group.
        originals[row] = first.setdefault(shas[row], row) if shas[row] else row
        if originals[row] != row:
            reasons[row] = Drop.DUPLICATE_BYTES.value
    if config.near and None in reasons:
        distinct = np.array([row for row in order if reasons[row] is None], np.int64)
        hashes = signatures["phash"].to_numpy()[distinct]
        buffer = signatures["thumbnail"].combine_chunks()
        thumbnails = np.frombuffer(buffer.buffers()[1], np.uint8)[: len(order) * CELLS].reshape(-1, CELLS)[distinct]
        places = leaders(hashes, thumbnails, config.max_distance, config.max_difference)
        for row, original in zip(distinct.tolist(), distinct[places].tolist(), strict=True):
            if original != row:
                originals[row], reasons[row] = original, Drop.NEAR_DUPLICATE.value
    return reasons, [originals[original] for original in originals]


def placeholders(rows: pa.Table, least: int) -> set[str]:
    """The digests of images that one host serves as ``least`` files or more, under more than one caption.

    That is the picture of a shop that has none of an article, or a "not found" that calls itself a success. The same
    picture at many URLs under one caption is a logo, and under one file name one that each language of a manual has a
    copy of: of these one is kept.
    """
    many = {sha for sha, count in Counter(rows["sha256"].to_pylist()).items() if sha and count >= least}
    files: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    texts: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    if not many:
        return many
    for sha, url, text in zip(*(rows[name].to_pylist() for name in ("sha256", "url", "caption")), strict=True):
        if sha in many:
            files[sha, host(url)].add(url.rpartition("/")[2])
            texts[sha, host(url)].add((text or "").casefold())
    return {sha for (sha, name), found in files.items() if len(found) >= least and len(texts[sha, name]) > 1}


def _figures(
    context: Context, images: Images, rows: pa.Table, reasons: Sequence[str | None], originals: Sequence[int]
) -> None:
    """Draw a gallery of the kept rows, and per reason one of dropped rows, each with the row kept instead of it."""
    places = with_column(rows, "_row", pa.array(range(rows.num_rows), pa.int64()))
    reason = pa.array(reasons, pa.string())
    gallery.of_rows(context, images, "kept", [places.filter(reason.is_null())])
    for name in sorted({why for why in reasons if why}):
        if name not in _DUPLICATES:
            gallery.of_rows(context, images, f"dropped_{name}", [places.filter(pc.equal(reason, name))])
            continue
        drawn = gallery.sample([places.filter(pc.equal(reason, name))], gallery.COUNT // 2)
        pairs = [
            row for dropped in drawn for row in (dropped, places.slice(originals[dropped["_row"]], 1).to_pylist()[0])
        ]
        gallery.draw(context, images, f"dropped_{name}", pairs, ["dropped", "kept"] * len(drawn))

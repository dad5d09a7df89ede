"""Dedup of rows whose signatures are given, without images and without a cluster."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.formats.shards import shard_name
from infra.run.context import Context
from pipelines.curate.dedup import Config
from pipelines.curate.dedup.duplicates import drop_duplicates
from pipelines.curate.dedup.rows import signature_table, signatures_path
from pipelines.curate.dedup.signatures import Signature
from pipelines.curate.dedup.thumbnails import thumbnail


def selection_of(folder, rows, per_shard=7) -> list[tuple[int, str, int]]:
    """Write the shards of a selection; number, path and rows of each. ``rows``: columns, as lists."""
    count = len(rows["sha256"])
    columns = {
        "uid": [f"{row:032x}" for row in range(count)],
        "key": [f"{row:09d}" for row in range(count)],
        "url": [f"http://a.example/{row}" for row in range(count)],
        "caption": [f"text {row}" for row in range(count)],
        "original_width": [1] * count,
        "original_height": [1] * count,
    }
    types = {"original_width": pa.int32(), "original_height": pa.int32(), "shard": pa.int32()}
    types |= dict.fromkeys(("sha256", "caption", "caption_language"), pa.string())
    types |= {"clip_score": pa.float32()}
    store, shards = Context(folder).output, []
    for start in range(0, count, per_shard):
        part = {name: values[start : start + per_shard] for name, values in (columns | rows).items()}
        number = start // per_shard * 3 + 1  # numbers need not be dense
        part["shard"] = [number] * len(part["uid"])
        path = f"data/kept-{shard_name(number)}.parquet"
        table = pa.table({name: pa.array(values, types.get(name)) for name, values in part.items()})
        store.write_table(path, table)
        shards.append((number, path, len(part["uid"])))
    return shards


def signed(hashed, shown) -> Signature:
    """The signature of a hash, or of the keys of an image and of its parts; and of a thumbnail, or the level of a grey
    one."""
    keys, parts = hashed if isinstance(hashed, tuple) else ([int(hashed)], [])
    return Signature(keys[0], keys, parts, shown if isinstance(shown, bytes) else flat(int(shown)))


@lru_cache(256)
def flat(level: int) -> bytes:
    return thumbnail(np.full((16, 16, 3), level, np.uint8), (0, 0, 16, 16))


def signatures_of(context, shards, hashes, thumbnails, reasons=None) -> None:
    """Write the signatures of these shards, as hashing them would have."""
    start = 0
    for number, _, count in shards:
        part = slice(start, start + count)
        found = zip(
            map(signed, hashes[part], thumbnails[part]),
            reasons[part] if reasons else [None] * count,
            strict=True,
        )
        uids = pa.array([f"{row:032x}" for row in range(start, start + count)])
        context.output.write_table(signatures_path(number), signature_table(uids, list(found)))
        start += count


def decided(folder, rows, hashes, thumbnails, config=None, reasons=None, per_shard=7):
    """For each row the reason to drop it, or None, and the place of the row kept instead of it, else its own."""
    shards = selection_of(folder / "selection", rows, per_shard)
    context = Context(folder / "dedup")
    signatures_of(context, shards, hashes, thumbnails, reasons)
    records, facts = drop_duplicates(config or Config(), Context(folder / "selection").store, shards, context)
    result, originals = read_back(context, len(hashes), [number for number, *_ in shards])
    assert sum(record.funnel.entered for record in records) == len(hashes)
    assert not context.store.paths("exchange")
    return result, originals, facts


def tables(context, kind):
    """The rows of all tables of a kind, kept or dropped."""
    found = []
    for path in sorted(context.store.paths("data")):
        if path.startswith(f"data/{kind}-"):
            with context.store.open(path) as source:
                found += pq.read_table(source).to_pylist()
    return found


def read_back(context, count, numbers):
    reasons, originals = np.full(count, None), np.full(count, -1)
    for number in numbers:
        for kind in ("kept", "dropped"):
            with context.store.open(f"data/{kind}-{shard_name(number)}.parquet") as source:
                table = pq.read_table(source)
            places = [int(uid, 16) for uid in table["uid"].to_pylist()]
            if kind == "kept":
                originals[places] = places
            else:
                reasons[places] = table["reason"].to_pylist()
                named = pc.coalesce(table["duplicate_of"], table["uid"])
                originals[places] = [int(uid, 16) for uid in named.to_pylist()]
    return reasons.tolist(), originals.tolist()

"""The work of embedding, in one process: read a shard's images, decode them in threads, encode them in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.encoder.bulk import encode_distinct, encode_loaded
from infra.encoder.open_clip import OpenClipEncoder
from infra.errors import DataError
from infra.formats.shards import shard_name
from infra.formats.testset import decode_image
from infra.formats.vectors import texts_of, write_vectors
from infra.rows import counted, row_error
from infra.run.context import ShardOutput
from infra.run.manifest import Artifact, ShardRecord
from infra.schema import Drop
from infra.store import Store
from infra.threads import mapped
from pipelines.curate.embed.config import Config
from pipelines.curate.embed.masking import Masker
from pipelines.layout import Images, funnel, read_images
from pipelines.tables import image_columns, image_table, read_table, successes, with_column, with_image_columns

__all__ = ["embed_shards"]


class _Shard(NamedTuple):
    number: int
    rows: pa.Table  # uid, key, shard and the captions
    images: list[bytes | None]
    output: ShardOutput


class _Outcome(NamedTuple):
    """The reason why an image has no vector, if it has none, with the message of an unforeseen error."""

    reason: Drop | None = None
    error: str | None = None


def embed_shards(
    config: Config,
    images: Images,
    selection: Store | None,
    model: Artifact | None,
    batch: Sequence[tuple[tuple[int, str], ShardOutput]],
) -> Iterator[ShardRecord]:
    """Write the vectors of each shard: of the kept rows of ``selection``, or else of all its images."""
    limits = config.limits
    encoder = config.encoder(model, batch_size=config.batch_size, cpus=limits.cpus, gpus=limits.gpus)
    masker = Masker() if config.mask_text else None

    def read(item: tuple[tuple[int, str], ShardOutput]) -> _Shard:
        (number, path), output = item
        rows = _rows(images, selection, number, path, config.captions)
        return _Shard(number, rows, read_images(images, rows.select(["shard", "key"]).to_pylist()), output)

    for shard in mapped(read, batch, threads=1, ahead=1):
        yield _embed(config, encoder, masker, shard)


def _rows(images: Images, selection: Store | None, shard: int, path: str, captions: str) -> pa.Table:
    """The rows to embed: uid, key, shard, and the captions, null where there is no such column."""
    if selection is None:
        columns = {"uid", "key", "url", "caption", "status", captions}.intersection(image_columns(images, shard))
        rows = successes(image_table(images, shard, sorted(columns)), shard)
    else:
        rows = with_image_columns(read_table(selection, path), images, shard, [captions])
    if captions not in rows.column_names:
        rows = with_column(rows, captions, pa.nulls(rows.num_rows, pa.string()))
    return rows.select(dict.fromkeys(["uid", "key", "shard", captions]))


def _embed(config: Config, encoder: OpenClipEncoder, masker: Masker | None, shard: _Shard) -> ShardRecord:
    """Encode and write one shard."""
    load, threads = partial(_load, encoder, masker), max(1, int(config.limits.cpus))
    images, outcomes = encode_loaded(encoder, shard.images, load, threads=threads)
    reasons = [None if found.reason is None else found.reason.value for found in outcomes]
    errors = [found.error for found in outcomes]
    reason = pa.array(reasons, pa.string())
    rows = shard.rows.filter(reason.is_null())
    captions = [texts_of(given) for given in rows[config.captions].to_pylist()]
    counts = pa.array(map(len, captions), pa.int32())
    rows = rows.select(["uid", "key", "shard"]).append_column("captions", counts)
    dropped = shard.rows.select(["uid", "key", "shard"]).append_column("reason", reason).filter(reason.is_valid())

    name = shard_name(shard.number)
    texts = encode_distinct(encoder, [text for given in captions for text in given])
    write_vectors(shard.output, name, rows, images, texts, config.name)
    shard.output.write_table(f"data/dropped-{name}.parquet", dropped)
    kind = shard.rows[config.captions].type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    facts = {"captions": sum(map(len, captions)), "lists": lists, **counted(errors)}
    return shard.output.commit(funnel("images", reasons), facts)


def _load(
    encoder: OpenClipEncoder, masker: Masker | None, data: bytes | None
) -> tuple[NDArray[np.uint8] | None, _Outcome]:
    """Decode and prepare one image; whatever is wrong with it is its own outcome."""
    if data is None:
        return None, _Outcome(Drop.MISSING)
    try:
        image = decode_image(data, "")
        return encoder.prepare(masker(image) if masker else image), _Outcome()
    except DataError:
        return None, _Outcome(Drop.DECODE)
    except Exception as error:  # noqa: BLE001 - see infra.rows
        return None, _Outcome(Drop.UNFORESEEN, row_error(error))

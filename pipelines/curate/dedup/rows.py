"""First steps of dedup, at the rows' homes: what tells rows apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.errors import DataError
from infra.exchange import Task
from infra.formats.shards import shard_name
from infra.hashing import hash64
from infra.rows import counted, row_error
from infra.run.context import ShardOutput
from infra.run.manifest import ShardRecord
from infra.schema import Drop
from infra.store import Store
from pipelines.curate.dedup.config import Config
from pipelines.curate.dedup.homes import part_of, row_numbers
from pipelines.curate.dedup.preference import columns, preference
from pipelines.curate.dedup.signatures import Signature, signature
from pipelines.download.hosts import host
from pipelines.layout import Images, read_images
from pipelines.tables import read_table, with_column

__all__ = ["hash_shard", "known_signatures", "send_rows", "signature_table", "signatures_path", "with_phash"]

_READ = ("sha256", "url", "caption")


def signatures_path(shard: int) -> str:
    """Of the table of a shard's rows: ``uid``, a :class:`Signature`, ``look`` (a hash of it) and ``reason``."""
    return f"data/signatures-{shard_name(shard)}.parquet"


def hash_shard(
    config: Config, images: Images, selection: Store, spec: tuple[int, str], output: ShardOutput
) -> ShardRecord:
    """Write the signature of each row of a selection's shard, or the reason why its image has none."""
    shard, path = spec
    table = read_table(selection, path, ["uid", "shard", "key"])
    rows = table.to_pylist()
    errors: list[str] = []
    found = [_signature(config, image, errors) for image in read_images(images, rows)]
    output.write_table(signatures_path(shard), signature_table(table["uid"], found))
    return output.commit(facts=counted(errors, len(rows)))


def signature_table(uids: pa.ChunkedArray | pa.Array, found: Sequence[tuple[Signature, Drop | None]]) -> pa.Table:
    """The table of a shard's rows with their signatures and reasons."""
    signatures = [one for one, _ in found]
    looks = [hash64(f"{one.keys} {one.parts} {one.thumbnail.hex()}") for one in signatures]
    return pa.table(
        {
            "uid": uids,
            "phash": pa.array([one.phash for one in signatures], pa.uint64()),
            "keys": pa.array([one.keys for one in signatures], pa.list_(pa.uint64())),
            "parts": pa.array([one.parts for one in signatures], pa.list_(pa.uint64())),
            "thumbnail": pa.array([one.thumbnail for one in signatures], pa.binary()),
            "look": pa.array(looks, pa.uint64()),
            "reason": pa.array([reason for _, reason in found], pa.string()),
        }
    )


def _signature(config: Config, image: bytes | None, errors: list[str]) -> tuple[Signature, Drop | None]:
    """The signature of an image, or an empty one and the reason why it has none."""
    none = Signature(0, [], [], b"")
    if image is None:
        return none, Drop.MISSING
    try:
        return signature(image, crops=config.crops, mirrored=config.mirrored), None
    except DataError:
        return none, Drop.DECODE
    except Exception as error:  # noqa: BLE001 - see infra.rows
        errors.append(row_error(error))
        return none, Drop.UNFORESEEN


def with_phash(store: Store, shard: int, rows: pa.Table) -> tuple[pa.Table, list[str | None]]:
    """``rows`` of a shard with the column ``phash``, and why those are dropped that have none."""
    signatures = read_table(store, signatures_path(shard), ["phash", "reason"])
    reasons = signatures["reason"].to_pylist()
    known = zip(signatures["phash"].to_pylist(), reasons, strict=True)
    phash = pa.array([None if reason else f"{value:016x}" for value, reason in known], pa.string())
    return with_column(rows, "phash", phash), reasons


def known_signatures(store: Store, shard: int) -> dict[str, Signature]:
    """The signatures that dedup made of a shard's rows, by ``uid``."""
    table = read_table(store, signatures_path(shard), ["uid", *Signature._fields, "reason"])
    table = table.filter(table["reason"].is_null())
    columns = (table[name].to_pylist() for name in Signature._fields)
    return dict(zip(table["uid"].to_pylist(), map(Signature, *columns), strict=True))


def send_rows(config: Config, selection: Store, parts: int, task: Task) -> None:
    """Stream ``files``: for each row what tells equal files and placeholders, by the digest of its file. If rows of one
    URL are duplicates, stream ``urls`` instead: the same, by URL.

    A row without a digest equals no other: as equal empty digests all of them would be one group.
    """
    tables = []
    for shard, path in task.spec:
        rows = read_table(selection, path, [*_READ, *columns(config, selection, path)])
        signatures = read_table(task.output.store, signatures_path(shard), ["keys", "parts", "look", "reason"])
        numbers = row_numbers(shard, rows.num_rows)
        urls = rows["url"].to_pylist()
        digests = [
            digest or f"row {number}" for digest, number in zip(rows["sha256"].to_pylist(), numbers, strict=True)
        ]
        files, addresses = _hashes128(digests), _hashes128(urls)
        sent = {
            "file": pa.array(files[:, 0]),
            "file_rest": pa.array(files[:, 1]),
            "url": pa.array(addresses[:, 0]),
            "url_rest": pa.array(addresses[:, 1]),
            "preference": preference(rows, config),
            "row": pa.array(numbers),
            "readable": signatures["reason"].is_null(),
            "keys": signatures["keys"],
            "parts": signatures["parts"],
            "look": signatures["look"],
            "host": _hashes(map(_host, urls)),
            "name": _hashes(url.rpartition("/")[2] for url in urls),
            "text": _hashes((text or "").casefold() for text in rows["caption"].to_pylist()),
        }
        tables.append(pa.table(sent))
    every = pa.concat_tables(tables)
    by = "url" if config.urls else "file"
    task.send(f"{by}s", every, part_of(every[by], parts))


def _host(url: str) -> str:
    """The host of a URL; of one that says where it ends, nothing else is parsed, and not twice."""
    authority = "/".join(url.split("/", 3)[:3])
    return _host_of(url if authority.endswith("/") or "\\" in authority else authority)


_host_of = lru_cache(maxsize=100_000)(host)


def _hashes128(texts: Sequence[str]) -> NDArray[np.uint64]:
    """128 bits of each text: (n, 2) uint64."""
    found = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(found, np.uint64).reshape(-1, 2)


def _hashes(texts: Iterable[str]) -> pa.Array:
    return pa.array(list(map(hash64, texts)), pa.uint64())

"""First and last step of dedup, at the rows' homes: what tells rows apart, and the selection that comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import DataError
from infra.exchange import UP, Task
from infra.formats.shards import shard_name
from infra.hashing import hash64
from infra.rows import counted, row_error
from infra.run.context import ShardOutput
from infra.run.manifest import Funnel, ShardRecord
from infra.schema import Drop
from infra.store import Store
from pipelines.curate import gallery
from pipelines.curate.dedup.config import Config
from pipelines.curate.dedup.homes import part_of, row_numbers
from pipelines.curate.dedup.signatures import Signature, signature
from pipelines.download.hosts import host
from pipelines.layout import Images, funnel, read_images
from pipelines.tables import read_table, with_column, write_selection

__all__ = ["hash_shard", "send_rows", "signature_table", "signatures_path", "write_shards"]

_SAMPLES = gallery.COUNT // 2  # of duplicates of a kind, in its figure: each beside what was kept instead

_READ = ["sha256", "url", "caption", "original_width", "original_height"]


def signatures_path(shard: int) -> str:
    """Of the table of a selection's shard with a :class:`Signature`, ``look`` (a hash of it) and ``reason``."""
    return f"data/signatures-{shard_name(shard)}.parquet"


def hash_shard(
    config: Config, images: Images, selection: Store, spec: tuple[int, str], output: ShardOutput
) -> ShardRecord:
    """Write the signature of each row of a selection's shard, or the reason why its image has none."""
    shard, path = spec
    rows = read_table(selection, path, ["shard", "key"]).to_pylist()
    errors: list[str] = []
    found = [_signature(config, image, errors) for image in read_images(images, rows)]
    output.write_table(signatures_path(shard), signature_table(found))
    return output.commit(facts=counted(errors, len(rows)))


def signature_table(found: Sequence[tuple[Signature, Drop | None]]) -> pa.Table:
    """The table of a shard's signatures and reasons."""
    signatures = [one for one, _ in found]
    looks = [hash64(f"{one.keys} {one.thumbnail.hex()}") for one in signatures]
    return pa.table(
        {
            "phash": pa.array([one.phash for one in signatures], pa.uint64()),
            "keys": pa.array([one.keys for one in signatures], pa.list_(pa.uint64())),
            "thumbnail": pa.array([one.thumbnail for one in signatures], pa.binary()),
            "look": pa.array(looks, pa.uint64()),
            "reason": pa.array([reason for _, reason in found], pa.string()),
        }
    )


def _signature(config: Config, image: bytes | None, errors: list[str]) -> tuple[Signature, Drop | None]:
    """The signature of an image, or an empty one and the reason why it has none."""
    none = Signature(0, [], b"")
    if image is None:
        return none, Drop.MISSING
    try:
        return signature(image, crops=config.crops, mirrored=config.mirrored), None
    except DataError:
        return none, Drop.DECODE
    except Exception as error:  # noqa: BLE001 - see infra.rows
        errors.append(row_error(error))
        return none, Drop.UNFORESEEN


def send_rows(selection: Store, parts: int, task: Task) -> None:
    """Stream ``files``: for each row what tells equal files and placeholders, by the digest of its file.

    A row without a digest equals no other: as equal empty digests all of them would be one group.
    """
    tables = []
    for shard, path in task.spec:
        rows = read_table(selection, path, _READ)
        signatures = read_table(task.output.store, signatures_path(shard), ["keys", "look", "reason"])
        numbers = row_numbers(shard, rows.num_rows)
        urls = rows["url"].to_pylist()
        digests = [
            digest or f"row {number}" for digest, number in zip(rows["sha256"].to_pylist(), numbers, strict=True)
        ]
        files = np.frombuffer(b"".join(map(_hash128, digests)), np.uint64).reshape(-1, 2)
        columns = {
            "file": pa.array(files[:, 0]),
            "file_rest": pa.array(files[:, 1]),
            "preference": _preference(rows),
            "row": pa.array(numbers),
            "readable": signatures["reason"].is_null(),
            "keys": signatures["keys"],
            "look": signatures["look"],
            "host": _hashes(map(_host, urls)),
            "name": _hashes(url.rpartition("/")[2] for url in urls),
            "text": _hashes((text or "").casefold() for text in rows["caption"].to_pylist()),
        }
        tables.append(pa.table(columns))
    sent = pa.concat_tables(tables)
    task.send("files", sent, part_of(sent["file"], parts))


def _host(url: str) -> str:
    """The host of a URL; of one that says where it ends, nothing else is parsed, and not twice."""
    authority = "/".join(url.split("/", 3)[:3])
    return _host_of(url if authority.endswith("/") or "\\" in authority else authority)


_host_of = lru_cache(maxsize=100_000)(host)


def _hash128(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _hashes(texts: Iterable[str]) -> pa.Array:
    return pa.array(list(map(hash64, texts)), pa.uint64())


def _preference(rows: pa.Table) -> pa.Array:
    """Of images that are one the greatest of these stays, and of equals the first row: pixels of the original."""
    sides = (pc.fill_null(rows[name], 0).cast(pa.int64()) for name in ("original_width", "original_height"))
    return pc.multiply(*sides).combine_chunks()


def write_shards(selection: Store, sampled: int, task: Task) -> None:
    """Write the selection of the shards of a home from its verdicts; the facts have samples of duplicates.

    ``sampled``: the number of homes of which samples are taken.
    """
    verdicts = task.receive("verdicts", [("row", UP)])
    rows, originals, uids, reasons = (verdicts[name].to_pylist() for name in ("row", "original", "uid", "reason"))
    told = {row: (uid, reason) for row, uid, reason in zip(rows, uids, reasons, strict=True)}
    total: Funnel = funnel("images", [])
    for shard, path in task.spec:
        table = read_table(selection, path)
        signatures = read_table(task.output.store, signatures_path(shard), ["phash", "reason"])
        known = zip(signatures["phash"].to_pylist(), signatures["reason"].to_pylist(), strict=True)
        phash = pa.array([None if reason else f"{value:016x}" for value, reason in known], pa.string())
        table = with_column(table, "phash", phash)
        own = zip(table["uid"].to_pylist(), signatures["reason"].to_pylist(), strict=True)
        numbers = row_numbers(shard, table.num_rows).tolist()
        found = [told.get(number, pair) for number, pair in zip(numbers, own, strict=True)]
        notes = {"duplicate_of": pa.array([uid for uid, _ in found], pa.string())}
        total += write_selection(task.output, shard, table, [reason for _, reason in found], notes)
    task.funnel = total
    if task.number < sampled:
        task.facts["duplicates"] = _samples(rows, originals, reasons)


def _samples(rows: list[int], originals: list[int], reasons: list[str]) -> dict[str, list[tuple[int, int]]]:
    """A few rows and their originals, for each reason."""
    found: dict[str, list[tuple[int, int]]] = {}
    order = np.argsort([hash64(str(row)) for row in rows], kind="stable").tolist()
    for place in order:
        chosen = found.setdefault(reasons[place], [])
        if len(chosen) < _SAMPLES and rows[place] != originals[place]:
            chosen.append((rows[place], originals[place]))
    return found

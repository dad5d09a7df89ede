"""Reading and writing the tables that stages hand to one another: pairs, images, and selections of images.

A *selection* is what filter, dedup and balance leave: per shard the rows kept and the rows dropped with a ``reason``.
Images are not copied; ``shard`` and ``key`` say where in the downloads a row's image lies. There may be several: what
failed can be tried again, and what that brings is numbered on from the first, so that a number still names one shard.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, BinaryIO

from infra.errors import DataError
from infra.formats.shards import IMAGE_EXTENSIONS, index_tar, shard_name, split_name
from infra.run.manifest import Artifact, File, Funnel
from infra.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

    from infra.run.context import Output

__all__ = [
    "Images",
    "Slice",
    "cut",
    "downloads",
    "find_images",
    "funnel",
    "image_shards",
    "kept_files",
    "read_images",
    "read_slices",
    "read_table",
    "selected",
    "selection_columns",
    "selection_shards",
    "uid",
    "write_selection",
]

selection_columns = (
    *("uid", "key", "shard", "url", "caption", "page_url", "source", "license"),
    *("width", "height", "original_width", "original_height", "sha256"),
)
"""Columns every selection has; a stage may add its own behind them."""


@dataclass(frozen=True)
class Slice:
    """``rows`` rows of the Parquet file ``path`` from row ``start`` on."""

    path: str
    start: int
    rows: int


def uid(url: str, caption: str) -> str:
    """The id of a pair: 32 hex digits that depend on nothing but the image's canonical address and the text."""
    hashed = _BLAKE2B.copy()  # half the time of making a new one
    hashed.update(f"{url}\n{caption}".encode())
    return hashed.hexdigest()


_BLAKE2B = hashlib.blake2b(digest_size=16)


def kept_files(artifact: Artifact) -> list[File]:
    """The Parquet files of an artifact that hold rows to go on with, in order."""
    return [file for file in artifact.files("data/", ".parquet") if not file.path.startswith("data/dropped")]


def cut(files: Iterable[File], rows: int) -> Iterator[tuple[Slice, ...]]:
    """The rows of ``files``, in order, in lots of ``rows``; the last may be smaller."""
    lot: list[Slice] = []
    room = rows
    for file in files:
        start, left = 0, file.rows or 0
        while left:
            take = min(left, room)
            lot.append(Slice(file.path, start, take))
            start, left, room = start + take, left - take, room - take
            if not room:
                yield tuple(lot)
                lot, room = [], rows
    if lot:
        yield tuple(lot)


def read_table(store: Store, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file of ``store``, or some of its columns."""
    import pyarrow.parquet as pq

    with store.open(path) as source:
        return pq.read_table(source, columns=columns)


def read_slices(store: Store, slices: Iterable[Slice]) -> pa.Table:
    """The rows of ``slices``, in order; only the row groups they lie in are read, however large the file."""
    import pyarrow as pa

    return pa.concat_tables([_read_slice(store, part) for part in slices])


def _read_slice(store: Store, part: Slice) -> pa.Table:
    import pyarrow.parquet as pq

    with store.open(part.path) as source, pq.ParquetFile(source) as file:
        groups: list[int] = []
        before = end = 0
        for group in range(file.num_row_groups):
            start, end = end, end + file.metadata.row_group(group).num_rows
            if start < part.start + part.rows and end > part.start:
                before = before if groups else start
                groups.append(group)
        return file.read_row_groups(groups).slice(part.start - before, part.rows)


# --- images -----------------------------------------------------------------------------------------------------------


def downloads(inputs: Mapping[str, Artifact]) -> list[Artifact]:
    """The inputs ``images``, ``images_retry``, ...: artifacts in img2dataset's layout, by the numbers of their shards.

    Raises DataError if two hold shards of the same number.
    """
    found = [
        (image_shards(inputs[name]), name) for name in sorted(inputs) if name == "images" or name.startswith("images_")
    ]
    found.sort(key=lambda item: item[0][:1])  # one that is empty comes first, and does no harm there
    for (before, first), (after, second) in pairwise(item for item in found if item[0]):
        if before[-1][0] >= after[0][0]:
            raise DataError(
                f"{first} and {second} hold shards of the same number",
                expected="images, and retries of them, which are numbered on",
                found=f"{before[0][0]} to {before[-1][0]} and {after[0][0]} to {after[-1][0]}",
            )
    return [inputs[name] for _, name in found]


@dataclass(frozen=True)
class Images:
    """Where images lie: the number of the first shard of each download and its store, in order. Small, and pickles."""

    stores: tuple[tuple[int, Store], ...]

    @classmethod
    def of(cls, inputs: Mapping[str, Artifact]) -> Images:
        """The images of all the downloads among a stage's inputs."""
        found = [(image_shards(artifact), artifact.store) for artifact in downloads(inputs)]
        return cls(tuple((shards[0][0], store) for shards, store in found if shards))

    def store(self, shard: int) -> Store:
        """The store that holds shard number ``shard``."""
        place = bisect_right(self.stores, shard, key=lambda item: item[0]) - 1
        if place < 0:
            raise DataError(f"no download has a shard {shard_name(shard)}")
        return self.stores[place][1]

    @staticmethod
    def path(shard: int) -> str:
        """Where the store of a shard has its table."""
        return f"data/{shard_name(shard)}.parquet"

    def tar(self, shard: int) -> BinaryIO:
        return self.store(shard).open(f"data/{shard_name(shard)}.tar")

    def table(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Every attempted row of a shard."""
        return read_table(self.store(shard), self.path(shard), columns)


def image_shards(*images: Artifact) -> list[tuple[int, str]]:
    """Number and Parquet path of each shard of artifacts in img2dataset's layout."""
    return [(_number(file, ""), file.path) for artifact in images for file in artifact.files("data/", ".parquet")]


def selection_shards(selection: Artifact) -> list[tuple[int, str]]:
    """Number and path of each file of kept rows of a selection."""
    return [(_number(file, "kept-"), file.path) for file in selection.files("data/kept-", ".parquet")]


def write_selection(
    output: Output, shard: int, rows: pa.Table, reasons: Sequence[str | None], notes: Mapping[str, Any] | None = None
) -> Funnel:
    """Write the kept (reason None) and the dropped ``rows`` of a shard; their funnel, in images.

    ``notes`` are further columns for the dropped rows.
    """
    import pyarrow as pa

    reason = pa.array(reasons, pa.string())
    kept = rows.filter(reason.is_null())
    for name, values in {"reason": reason, **(notes or {})}.items():
        rows = rows.append_column(name, values)
    dropped = rows.filter(reason.is_valid())
    output.write_table(f"data/kept-{shard_name(shard)}.parquet", kept)
    output.write_table(f"data/dropped-{shard_name(shard)}.parquet", dropped)
    return funnel("images", reasons)


def funnel(unit: str, reasons: Sequence[str | None]) -> Funnel:
    """The account of rows that were kept (None) or dropped for a reason."""
    names = sorted({str(reason) for reason in reasons if reason is not None})
    counts = {name: sum(reason == name for reason in reasons) for name in names}
    return Funnel(unit=unit, entered=len(reasons), kept=len(reasons) - sum(counts.values()), dropped=counts)


def selected(rows: pa.Table, shard: int) -> pa.Table:
    """The columns of a selection from the rows of an image shard, successes only.

    img2dataset's own tables have no ``uid``; it is computed from the address and caption they have.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = rows.filter(pc.equal(rows["status"], "success"))
    columns: dict[str, Any] = {name: rows[name] for name in rows.column_names}
    columns["shard"] = pa.repeat(pa.scalar(shard, pa.int32()), rows.num_rows)
    absent = pa.nulls(rows.num_rows, pa.string())
    if "uid" not in columns:
        pairs = zip(rows["url"].to_pylist(), columns.get("caption", absent).to_pylist(), strict=True)
        columns["uid"] = pa.array([uid(url, caption or "") for url, caption in pairs], pa.string())
    return pa.table({name: columns.get(name, absent) for name in selection_columns})


def read_images(images: Images | Store, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """The encoded image of each row, found by its ``shard`` and ``key``; a store is that of a single download.

    Raises DataError if one is not there.
    """
    if isinstance(images, Store):
        images = Images(((0, images),))
    wanted: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        wanted[row["shard"]].add(row["key"])
    found: dict[str, bytes] = {}
    for shard, keys in sorted(wanted.items()):
        with images.tar(shard) as tar:
            places = find_images(tar, keys)
            for key in sorted(places, key=places.__getitem__):
                offset, size, _ = places[key]
                tar.seek(offset)
                found[key] = tar.read(size)
    return [found[row["key"]] for row in rows]


def find_images(tar: BinaryIO, keys: Collection[str]) -> dict[str, tuple[int, int, str]]:
    """Offset, size in bytes and extension of the image of each of ``keys``. Raises DataError if one is not there."""
    found = {}
    for name, offset, size in index_tar(tar):
        parts = split_name(name)
        if parts and parts[0] in keys and parts[1] in IMAGE_EXTENSIONS:
            found[parts[0]] = (offset, size, parts[1])
            if len(found) == len(keys):
                break
    if missing := sorted(set(keys) - found.keys()):
        raise DataError("a selected image is not in its shard", found=f"no image for key {missing[0]}")
    return found


def _number(file: File, prefix: str) -> int:
    name = file.path.removeprefix("data/").removeprefix(prefix).removesuffix(".parquet")
    if not name.isdigit():
        raise DataError(f"{file.path} is not a shard", expected=f"data/{prefix}00000.parquet and so on")
    return int(name)

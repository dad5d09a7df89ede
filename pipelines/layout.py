"""The layout of artifacts of rows and images: their files, shards, and places in tars. Light to import.

Stages hand each other three kinds of tables, which :mod:`pipelines.tables` reads and writes:

- *pairs*: image URLs with captions, in files of any size
- *images*: img2dataset's layout, ``data/00000.tar`` beside ``data/00000.parquet``
- *selections*: per shard of images the rows kept and the rows dropped with a ``reason``. Images are not copied; the
  columns ``shard`` and ``key`` say where they lie. There may be several artifacts of images: a download and retries of
  it, whose shards are numbered on, so that a number names one shard among all of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

from infra.errors import DataError
from infra.formats.shards import IMAGE_EXTENSIONS, index_tar, shard_name, split_name
from infra.run.manifest import Artifact, File, Funnel
from infra.store import Store

__all__ = [
    "Images",
    "Slice",
    "chunk_rows",
    "counted_shards",
    "downloads",
    "find_images",
    "funnel",
    "image_shards",
    "input_shards",
    "kept_files",
    "read_images",
    "row_count",
    "selection_shards",
]


def funnel(unit: str, reasons: Iterable[str | None]) -> Funnel:
    """The account of rows that were kept (None) or dropped for a reason."""
    counts = Counter(None if reason is None else str(reason) for reason in reasons)
    dropped = sorted((reason, count) for reason, count in counts.items() if reason is not None)
    return Funnel(unit=unit, entered=counts.total(), kept=counts[None], dropped=dict(dropped))


# --- pairs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slice:
    """``rows`` rows of the Parquet file ``path`` from row ``start`` on."""

    path: str
    start: int
    rows: int


def kept_files(artifact: Artifact) -> list[File]:
    """The Parquet files of an artifact that hold its kept rows, in order."""
    return [file for file in artifact.each_file("data/", ".parquet") if not file.path.startswith("data/dropped")]


def chunk_rows(files: Iterable[File], rows: int) -> Iterator[tuple[Slice, ...]]:
    """Divide the rows of ``files``, in order, into chunks of ``rows``; the last may be smaller."""
    chunk: list[Slice] = []
    room = rows
    for file in files:
        start, left = 0, file.rows or 0
        while left:
            take = min(left, room)
            chunk.append(Slice(file.path, start, take))
            start, left, room = start + take, left - take, room - take
            if not room:
                yield tuple(chunk)
                chunk, room = [], rows
    if chunk:
        yield tuple(chunk)


# --- images -----------------------------------------------------------------------------------------------------------


def downloads(inputs: Mapping[str, Artifact]) -> list[Artifact]:
    """The inputs ``images``, ``images_retry``, ... (img2dataset's layout), in the order of their shard numbers.

    Raises DataError if two hold shards of the same number.
    """
    found = [
        (image_shards(inputs[name]), name) for name in sorted(inputs) if name == "images" or name.startswith("images_")
    ]
    found.sort(key=lambda item: item[0][:1])  # empty ones come first
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
    """Finds shards of images: the first shard number and the store of each download, in order. Small; pickles."""

    stores: tuple[tuple[int, Store], ...]

    @classmethod
    def of(cls, inputs: Mapping[str, Artifact]) -> Images:
        """The images of all the downloads among a stage's inputs."""
        found = [(image_shards(artifact), artifact.store) for artifact in downloads(inputs)]
        return cls(tuple((shards[0][0], store) for shards, store in found if shards))

    def store(self, shard: int) -> Store:
        """The store that holds shard number ``shard``. Raises DataError."""
        place = bisect_right(self.stores, shard, key=lambda item: item[0]) - 1
        if place < 0:
            raise DataError(f"no download has a shard {shard_name(shard)}")
        return self.stores[place][1]

    @staticmethod
    def path(shard: int) -> str:
        """Path of a shard's table within its store."""
        return f"data/{shard_name(shard)}.parquet"

    def tar(self, shard: int) -> BinaryIO:
        return self.store(shard).open(f"data/{shard_name(shard)}.tar")


def image_shards(*images: Artifact) -> list[tuple[int, str]]:
    """Number and Parquet path of each shard of artifacts in img2dataset's layout."""
    return [(_number(file, ""), file.path) for artifact in images for file in artifact.each_file("data/", ".parquet")]


def read_images(images: Images | Store, rows: Sequence[Mapping[str, Any]]) -> list[bytes | None]:
    """The encoded image of each row, found by its ``shard`` and ``key``, or None if its tar has none.

    ``images``: a store is that of a single download.
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
    return [found.get(row["key"]) for row in rows]


def find_images(tar: BinaryIO, keys: Collection[str]) -> dict[str, tuple[int, int, str]]:
    """Offset, size in bytes and extension of the image of each of ``keys`` that the tar has."""
    found = {}
    for name, offset, size in index_tar(tar):
        parts = split_name(name)
        if parts and parts[0] in keys and parts[1] in IMAGE_EXTENSIONS:
            found[parts[0]] = (offset, size, parts[1])
            if len(found) == len(keys):
                break
    return found


# --- selections -------------------------------------------------------------------------------------------------------


def selection_shards(selection: Artifact) -> list[tuple[int, str]]:
    """Shard number and path of each file of kept rows. Raises DataError if there are tables, but none of kept rows."""
    found = [(_number(file, "kept-"), file.path) for file in selection.each_file("data/kept-", ".parquet")]
    if not found and (others := selection.files("data/", ".parquet")):
        raise DataError(
            "a selection has no files of kept rows", expected="data/kept-00000.parquet and so on", found=others[0].path
        )
    return found


def input_shards(inputs: Mapping[str, Artifact]) -> list[tuple[int, str]]:
    """Number and table of each shard of the input ``selection``, or else of all ``images``."""
    selection = inputs.get("selection")
    return selection_shards(selection) if selection else image_shards(*downloads(inputs))


def counted_shards(inputs: Mapping[str, Artifact]) -> list[tuple[int, str, int]]:
    """Number, table and rows of each shard of :func:`input_shards`, as their manifests have it."""
    artifacts = [inputs["selection"]] if "selection" in inputs else downloads(inputs)
    rows = {file.path: file.rows or 0 for artifact in artifacts for file in artifact.each_file("data/", ".parquet")}
    return [(shard, path, rows[path]) for shard, path in input_shards(inputs)]


def row_count(selection: Artifact) -> int:
    """The rows of a selection, as its manifest has it."""
    return sum(file.rows or 0 for file in selection.each_file("data/kept-", ".parquet"))


def _number(file: File, prefix: str) -> int:
    name = file.path.removeprefix("data/").removeprefix(prefix).removesuffix(".parquet")
    if not name.isdigit():
        raise DataError(f"{file.path} is not a shard", expected=f"data/{prefix}00000.parquet and so on")
    return int(name)

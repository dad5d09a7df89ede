"""Embeddings on disk in DataComp's form: tables of rows beside arrays of float16 vectors.

::

    data/{shard}.parquet   uid of each row; of ours also key, shard, and captions: how many texts belong to it
    data/{shard}.npz       {name}_img (n, d) and {name}_txt (m, d), float16; without captions, m = n

In memory they are float32 rows of unit length again, so what float16 rounded away is the direction's last bits only: a
cosine of 512 dimensions is off by some 1e-5.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.arrays import ranges
from infra.errors import DataError
from infra.run.context import Output
from infra.run.manifest import Artifact
from infra.store import Store

__all__ = [
    *("Vectors", "chunks", "gathered", "packed", "read_vectors"),
    *("unit", "unpacked", "vector_shards", "write_vectors"),
]

Floats = NDArray[np.float32]

_IMAGES, _TEXTS = "_img", "_txt"


@dataclass(frozen=True)
class Vectors:
    """The embeddings of n rows and their m captions. Caption j belongs to row ``row_of[j]``."""

    uids: list[str]
    images: Floats  # (n, d), unit rows; zeros where there is no vector
    texts: Floats  # (m, d)
    row_of: NDArray[np.int64]  # (m,), in rising order

    @cached_property
    def pairs(self) -> Floats:
        """The image of each caption: (m, d)."""
        return self.images[self.row_of]

    @cached_property
    def similarities(self) -> Floats:
        """The cosine of each caption with its image: (m,)."""
        cosines: Floats = np.einsum("md,md->m", self.pairs, self.texts)
        return cosines

    def take(self, rows: NDArray[np.int64]) -> Vectors:
        """The given rows, with all their captions."""
        counts = np.bincount(self.row_of, minlength=len(self.uids))
        starts, sizes = (np.cumsum(counts) - counts)[rows], counts[rows]
        row_of = np.repeat(np.arange(len(rows)), sizes)
        texts = self.texts[ranges(starts, sizes)]
        return Vectors([self.uids[row] for row in rows], self.images[rows], texts, row_of)


def vector_shards(artifact: Artifact) -> list[str]:
    """The names of an artifact's shards of embeddings."""
    return [file.path.removeprefix("data/").removesuffix(".npz") for file in artifact.files("data/", ".npz")]


def write_vectors(output: Output, shard: str, rows: pa.Table, images: Floats, texts: Floats, name: str) -> None:
    """Write the vectors of ``rows``, which have a column ``captions`` with the number of texts of each."""
    output.write_table(f"data/{shard}.parquet", rows)
    with output.open(f"data/{shard}.npz", rows=rows.num_rows) as sink, zipfile.ZipFile(sink, "w") as file:
        for ending, array in ((_IMAGES, images), (_TEXTS, texts)):
            # A name alone has a fixed date; np.savez would write the same.
            with file.open(f"{name}{ending}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array.astype(np.float16))


def read_vectors(store: Store, shard: str, name: str | None = None) -> Vectors:
    """Read the embeddings of a shard by the model ``name``, which must be given if the shard has several.

    Raises DataError if rows and vectors do not go together.
    """
    with store.open(f"data/{shard}.parquet") as source, pq.ParquetFile(source) as table:
        columns = [column for column in ("uid", "captions") if column in table.schema_arrow.names]
        rows = table.read(columns)
    place = store.locate(f"data/{shard}.npz")
    with store.open(f"data/{shard}.npz") as source, np.load(source, allow_pickle=False) as file:
        name = name or _only(place, list(file))
        if missing := [name + ending for ending in (_IMAGES, _TEXTS) if name + ending not in file]:
            raise DataError(f"{place} has no {missing[0]}", found=", ".join(sorted(file)))
        images, texts = unit(file[name + _IMAGES]), unit(file[name + _TEXTS])
    counts = rows["captions"].to_numpy() if "captions" in columns else np.ones(rows.num_rows, np.int64)
    if len(images) != rows.num_rows or len(texts) != counts.sum() or images.shape[1:] != texts.shape[1:]:
        raise DataError(
            f"{place} does not fit the table beside it",
            expected=f"vectors of {rows.num_rows} images and {counts.sum()} captions, equally long",
            found=f"{images.shape} and {texts.shape}",
        )
    return Vectors(rows["uid"].to_pylist(), images, texts, np.repeat(np.arange(len(images)), counts))


def gathered(artifact: Artifact, name: str | None, shards: Sequence[str], uids: Collection[str]) -> Vectors:
    """Return the vectors of the rows ``uids``, as far as there are any, in the order of the artifact.

    Those of our own embed stage lie in the shards of the rows' own names, ``shards``. In others all are looked through,
    of which only the column ``uid`` where nothing is found.
    """
    there = vector_shards(artifact)
    parts = []
    wanted = pa.array(sorted(uids), pa.string())
    for shard in shards if set(shards) <= set(there) else there:
        with artifact.store.open(f"data/{shard}.parquet") as source:
            found = pc.is_in(pq.read_table(source, columns=["uid"])["uid"], value_set=wanted)
        if (rows := np.flatnonzero(found.to_numpy())).size:
            vectors = read_vectors(artifact.store, shard, name)
            parts.append(vectors if rows.size == len(vectors.uids) else vectors.take(rows))
    if not parts:
        return Vectors([], np.empty((0, 0), np.float32), np.empty((0, 0), np.float32), np.empty(0, np.int64))
    starts = np.cumsum([0, *(len(part.uids) for part in parts)])
    return Vectors(
        [uid for part in parts for uid in part.uids],
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.texts for part in parts]),
        np.concatenate([part.row_of + start for part, start in zip(parts, starts, strict=False)]),
    )


def _only(place: str, arrays: Sequence[str]) -> str:
    names = sorted(array.removesuffix(_IMAGES) for array in arrays if array.endswith(_IMAGES))
    if len(names) != 1:
        raise DataError(
            f"{place} has the vectors of {len(names)} models" if names else f"{place} has no vectors of images",
            expected=f"an array NAME{_IMAGES} with NAME{_TEXTS}",
            found=", ".join(sorted(arrays)),
            fix="name the model in the field embedding" if names else "",
        )
    return names[0]


def unit(vectors: NDArray[np.floating]) -> Floats:
    """``vectors`` (n, d) as float32 rows of unit length; what has no direction (0, NaN, infinity) becomes zeros."""
    rows = vectors.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
    known = np.isfinite(norms) & (norms > 0)
    directions = np.where(known, rows, 0) / np.where(known, norms, 1)
    return directions.astype(np.float32, copy=False)


def packed(vectors: Floats) -> pa.Array:
    """Return ``vectors`` (n, d) as a column of float16 bytes, to travel with other columns of their rows."""
    data = np.ascontiguousarray(vectors, np.float16)
    ends = np.arange(len(data) + 1, dtype=np.int64) * 2 * data.shape[1]
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(data), [None, pa.py_buffer(ends), pa.py_buffer(data)]
    )


def unpacked(column: pa.ChunkedArray | pa.Array) -> Floats:
    """The unit vectors of a column that :func:`packed` made: (n, d)."""
    column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) and column.num_chunks else column
    if not len(column):
        return np.empty((0, 0), np.float32)
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return unit(np.frombuffer(data, np.uint8)[ends[0] : ends[-1]].view(np.float16).reshape(len(column), -1))


def chunks(count: int, size: int = 4096) -> list[slice]:
    """``count`` rows in slices of ``size``, so that a matrix of all with all never exists."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]

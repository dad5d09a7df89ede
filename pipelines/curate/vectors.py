"""Vectors of chosen rows, and their way through the exchange as columns. Their form on disk: infra.formats.vectors."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.formats.vectors import Floats, Vectors, read_vectors, unit
from infra.run.manifest import Artifact

__all__ = ["as_bytes", "chunks", "gathered", "packed", "unpacked"]


def gathered(artifact: Artifact, name: str | None, shards: Sequence[str], uids: Collection[str]) -> Vectors:
    """The vectors of the rows ``uids``, as far as there are any, which lie in ``shards`` (joining.py sees to that)."""
    parts = []
    wanted = pa.array(sorted(uids), pa.string())
    for shard in shards:
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


def packed(vectors: Floats) -> pa.Array:
    """Return ``vectors`` (n, d) as a column of float16 bytes, to travel with other columns of their rows."""
    return as_bytes(vectors.astype(np.float16), np.arange(len(vectors) + 1))


def as_bytes(vectors: NDArray[np.floating], ends: NDArray[np.int64]) -> pa.Array:
    """``vectors`` (m, d), as many to a value as ``ends`` (n + 1,) say, as a column of bytes: (n,)."""
    data = np.ascontiguousarray(vectors)
    offsets = ends.astype(np.int64) * data.itemsize * data.shape[1]
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(ends) - 1, buffers)


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

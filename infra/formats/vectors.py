"""Embeddings on disk in DataComp's form: tables of rows and arrays of float16 vectors.

::

    data/{shard}.parquet   uid of each row; of ours also captions, how many texts belong to it, and columns of the stage
    data/{shard}.npz       {name}_img (n, d) and {name}_txt (m, d), float16; without captions, m = n

In memory they are float32 rows of unit length again, so what float16 rounded away is the direction's last bits only: a
cosine of 512 dimensions is off by some 1e-5.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.arrays import ranges
from infra.errors import DataError
from infra.run.context import Output
from infra.run.manifest import Artifact
from infra.store import Store

__all__ = [
    *(
        "Floats",
        "Stored",
        "Vectors",
        "read_arrays",
        "read_stored",
        "read_vectors",
        "texts_of",
        "unit",
        "vector_shards",
        "write_arrays",
        "write_vectors",
    ),
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


@dataclass(frozen=True)
class Stored:
    """The embeddings of n rows as a file has them: vectors of any length and type of number."""

    uids: list[str]
    images: NDArray[np.floating]  # (n, d)
    texts: NDArray[np.floating]  # (m, d)
    counts: NDArray[np.int64]  # (n,), captions of each row


def vector_shards(artifact: Artifact) -> list[str]:
    """The names of an artifact's shards of embeddings."""
    return [file.path.removeprefix("data/").removesuffix(".npz") for file in artifact.files("data/", ".npz")]


def write_vectors(output: Output, shard: str, rows: pa.Table, images: Floats, texts: Floats, name: str) -> None:
    """Write the vectors of ``rows``, which have a column ``captions`` with the number of texts of each."""
    output.write_table(f"data/{shard}.parquet", rows)
    both = {f"{name}{_IMAGES}": images.astype(np.float16), f"{name}{_TEXTS}": texts.astype(np.float16)}
    write_arrays(output, f"data/{shard}.npz", both, rows=rows.num_rows)


def write_arrays(
    output: Output, path: str, arrays: Mapping[str, NDArray[np.floating]], rows: int | None = None
) -> None:
    """Write arrays as ``.npz``: the same bytes whenever."""
    with output.open(path, rows=rows) as sink, zipfile.ZipFile(sink, "w") as file:
        for name, array in arrays.items():
            # A name alone has a fixed date; np.savez would write the same.
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array)


def read_arrays(store: Store, path: str) -> dict[str, NDArray[np.floating]]:
    """The arrays of an ``.npz`` by name."""
    with store.open(path) as source, np.load(source, allow_pickle=False) as file:
        return dict(file)


def read_vectors(store: Store, shard: str, name: str | None = None) -> Vectors:
    """Read the embeddings of a shard by the model ``name``, which must be given if the shard has several.

    Raises DataError if rows and vectors do not go together.
    """
    stored = read_stored(store, shard, name)
    row_of = np.repeat(np.arange(len(stored.uids)), stored.counts)
    return Vectors(stored.uids, unit(stored.images), unit(stored.texts), row_of)


def read_stored(store: Store, shard: str, name: str | None = None) -> Stored:
    """The same as :func:`read_vectors`, as it lies in the file."""
    with store.open(f"data/{shard}.parquet") as source, pq.ParquetFile(source) as table:
        columns = [column for column in ("uid", "captions") if column in table.schema_arrow.names]
        rows = table.read(columns)
    place = store.locate(f"data/{shard}.npz")
    with store.open(f"data/{shard}.npz") as source, np.load(source, allow_pickle=False) as file:
        name = name or _only(place, list(file))
        if missing := [name + ending for ending in (_IMAGES, _TEXTS) if name + ending not in file]:
            raise DataError(f"{place} has no {missing[0]}", found=", ".join(sorted(file)))
        images, texts = file[name + _IMAGES], file[name + _TEXTS]
    counts = rows["captions"].to_numpy() if "captions" in columns else np.ones(rows.num_rows, np.int64)
    if (
        images.ndim != 2
        or images.shape[1:] != texts.shape[1:]
        or (len(images), len(texts)) != (rows.num_rows, counts.sum())
    ):
        raise DataError(
            f"{place} does not fit the table beside it",
            expected=f"vectors of {rows.num_rows} images and {counts.sum()} captions, equally long",
            found=f"{images.shape} and {texts.shape}",
        )
    return Stored(rows["uid"].cast(pa.string()).to_pylist(), images, texts, counts)


def unit(vectors: NDArray[np.floating]) -> Floats:
    """``vectors`` (n, d) as float32 rows of unit length; what has no direction (0, NaN, infinity) becomes zeros."""
    rows = vectors.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
    known = np.isfinite(norms) & (norms > 0)
    directions = np.where(known, rows, 0) / np.where(known, norms, 1)
    return directions.astype(np.float32, copy=False)


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


def texts_of(given: str | list[str | None] | None) -> list[str]:
    """The captions of a row that are encoded, in order: those that say anything."""
    texts = [given] if isinstance(given, str) or given is None else given
    return [text for text in texts if text and text.strip()]

"""Join the rows of a stage to their embeddings; rows without one get the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.formats.shards import shard_name
from infra.formats.vectors import Vectors
from infra.run.manifest import Artifact
from pipelines.layout import Images
from pipelines.tables import image_rows, read_table

__all__ = ["input_rows", "missing_reasons", "vector_places"]


def input_rows(inputs: Mapping[str, Artifact], number: int, path: str) -> pa.Table:
    """The rows of a shard of :func:`pipelines.layout.input_shards`: kept ones of ``selection``, or all with images."""
    if selection := inputs.get("selection"):
        return read_table(selection.store, path)
    return image_rows(Images.of(inputs), number)


def vector_places(rows: pa.Table, vectors: Vectors) -> NDArray[np.int64]:
    """Index of the vector of each of ``rows``, -1 if it has none or an empty one: (n,)."""
    found = pc.index_in(rows["uid"], value_set=pa.array(vectors.uids, pa.string()))
    places: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    empty = ~vectors.images.any(axis=1)
    return np.where((places >= 0) & ~np.append(empty, False)[places], places, -1)


def missing_reasons(embeddings: Artifact, number: int) -> dict[str, Any]:
    """The reasons that ``embed`` gave for rows of a shard that have no vectors, by uid."""
    if not embeddings.files(path := f"data/dropped-{shard_name(number)}.parquet"):
        return {}
    table = read_table(embeddings.store, path, ["uid", "reason"])
    return dict(zip(table["uid"].to_pylist(), table["reason"].to_pylist(), strict=True))

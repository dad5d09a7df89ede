"""Figures of scores: how they are spread, and the images with the lowest and the highest."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from numpy.typing import NDArray

from infra.figures import png
from infra.run.context import Context
from infra.run.manifest import ShardRecord
from pipelines.curate import gallery
from pipelines.curate.score.scores import Score
from pipelines.layout import Images
from pipelines.tables import read_table

__all__ = ["of_scores"]

_SHARDS = 64  # looked at: enough for an impression


def of_scores(context: Context, images: Images, scores: Sequence[Score], records: Sequence[ShardRecord]) -> None:
    """Draw ``spread_{column}``, ``lowest_{column}`` and ``highest_{column}`` of each score; lists by their best."""
    tables = [read_table(context.store, f"data/kept-{record.shard}.parquet") for record in records[:_SHARDS]]
    for score in scores:
        values = [_numbers(table[score.name]) for table in tables]
        known = np.concatenate([*values, np.empty(0)])
        if not (known := known[~np.isnan(known)]).size:
            continue
        context.figure(f"spread_{score.name}", _histogram(score.name, known))
        places = [
            (float(value), shard, row)
            for shard, column in enumerate(values)
            for row, value in enumerate(column.tolist())
            if value == value  # not NaN
        ]
        for name, few in (("lowest", heapq.nsmallest), ("highest", heapq.nlargest)):
            chosen = few(gallery.COUNT, places)
            rows: list[dict[str, Any]] = [tables[shard].slice(row, 1).to_pylist()[0] for _, shard, row in chosen]
            gallery.draw(context, images, f"{name}_{score.name}", rows, [f"{value:.3f}" for value, _, _ in chosen])


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    if pa.types.is_list(column.type):
        return np.array([max(given, default=np.nan) if given else np.nan for given in column.to_pylist()], np.float64)
    numbers: NDArray[np.float64] = pc.fill_null(column.cast("float64"), np.nan).to_numpy()
    return numbers


def _histogram(name: str, values: NDArray[np.float64]) -> bytes:
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.hist(values, bins=60, color="#0969da")
    axes.axvline(float(np.median(values)), color="#cf222e", linewidth=1, linestyle="--", label="median")
    axes.set(xlabel=name.replace("_", " "), ylabel="images", title=f"{len(values):,} images")
    axes.legend(frameon=False)
    return png(figure, dpi=110)

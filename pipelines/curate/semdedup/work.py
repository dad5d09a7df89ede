"""The decision of SemDeDup: the most similar row before each of its cluster, the limit, and the selection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.arrays import begins_run
from infra.exchange import DOWN, UP, Task
from infra.formats.vectors import Floats
from infra.hashing import hash64
from infra.run.manifest import Artifact, Funnel
from infra.schema import Drop
from pipelines.curate import gallery
from pipelines.curate.dedup.homes import Homes, row_numbers
from pipelines.curate.embedded import input_rows, missing_reasons
from pipelines.curate.semdedup.config import Config
from pipelines.curate.vectors import chunks, unpacked
from pipelines.layout import funnel
from pipelines.tables import with_column, write_selection

__all__ = ["compare", "decide", "find_limit", "most_similar_before", "write_shards"]

_BINS = 1 << 15  # cosines of -1 to 1 are counted in so many, 6e-5 each: finer than float16 vectors tell
EDGES: Floats = np.linspace(-1, 1, _BINS + 1, dtype=np.float32)
"""Upper edges of the bins; the first is of rows that have none before them."""

_EPSILONS = np.geomspace(0.001, 1, 61)  # of the figure
_SHOWN = 64  # homes that give samples to the figures


def compare(config: Config, task: Task) -> None:
    """Streams ``similar``: each row, with the place and cosine of the most similar one before it in its cluster, to
    this part's number; ``counts``: how many rows have which cosine."""
    order = UP if config.keep == "farthest" else DOWN
    members = task.receive("members", [("cluster", UP), ("centrality", order), ("row", UP)])
    vectors = unpacked(members["vector"])
    begins = np.flatnonzero(begins_run(members["cluster"].to_numpy()))
    sizes = np.diff(np.r_[begins, members.num_rows])
    place, cosine = np.zeros(members.num_rows, np.int64), np.zeros(members.num_rows, np.float32)
    for start, size in zip(begins.tolist(), sizes.tolist(), strict=True):
        rows = slice(start, start + size)
        before, cosine[rows] = most_similar_before(vectors[rows], config.max_compared)
        place[rows] = before + start
    similar = members.select(["row", "uid", "cluster"]).append_column("place", pa.array(place))
    similar = similar.append_column("cosine", pa.array(cosine))
    task.send("similar", similar, np.full(similar.num_rows, task.number))
    counts = np.bincount(np.searchsorted(EDGES, cosine), minlength=len(EDGES))
    bins = np.flatnonzero(counts)
    task.send("counts", pa.table({"bin": bins, "count": counts[bins]}), np.zeros(len(bins), np.int64))
    task.facts |= {"largest": int(sizes.max(initial=0)), "oversized": int((sizes > config.max_compared).sum())}


def most_similar_before(vectors: Floats, most: int) -> tuple[NDArray[np.int64], Floats]:
    """For each of ``vectors`` (n, d) the place of the most similar one among the ``most`` before it, and the cosine.

    The first has none: its own place, and -1.
    """
    place, cosine = np.arange(len(vectors)), np.full(len(vectors), -1, np.float32)
    for rows in chunks(len(vectors), 512):
        low = max(0, rows.start - most)
        products = vectors[rows] @ vectors[low : rows.stop].T
        one, other = np.arange(rows.start, rows.stop)[:, None], np.arange(low, rows.stop)
        products[(other >= one) | (other < one - most)] = -np.inf
        best = products.argmax(axis=1)
        found = products[np.arange(len(best)), best]
        some = np.isfinite(found)
        place[rows] = np.where(some, best + low, place[rows])
        cosine[rows] = np.where(some, np.minimum(found, 1), -1)  # rounding can make it more
    return place, cosine


def find_limit(config: Config, task: Task) -> None:
    """Facts: ``limit``, the cosine up to which rows stay; ``kept``, how many would for other epsilons."""
    received = task.receive("counts")
    weights = received["count"].to_numpy()
    counts = np.bincount(received["bin"].to_numpy(), weights, len(EDGES)).astype(np.int64)
    limit = 1 - config.epsilon
    if config.share is not None:
        wanted = config.share * counts.sum()
        limit = float(EDGES[np.searchsorted(np.cumsum(counts), wanted)])
    kept = np.cumsum(counts)[np.searchsorted(EDGES, np.float32(1) - _EPSILONS, side="right") - 1]
    task.facts |= {"limit": limit, "kept": list(zip(_EPSILONS.tolist(), kept.tolist(), strict=True))}


def decide(homes: Homes, limit: float, task: Task) -> None:
    """Stream ``verdicts``, to the rows' homes: each row, and of duplicates the row that stays instead, and its uid."""
    rows = task.receive("similar")
    place, goes = rows["place"].to_numpy(), rows["cosine"].to_numpy() > np.float32(limit)
    stays = np.arange(rows.num_rows)
    for row in np.flatnonzero(goes).tolist():  # in order: what is before a row is known
        stays[row] = stays[place[row]]
    original = pa.array(rows["row"].to_numpy()[stays], mask=~goes)
    uid = rows["uid"].combine_chunks().take(pa.array(stays, mask=~goes))
    verdicts = rows.select(["row", "cluster", "cosine"]).append_column("original", original).append_column("uid", uid)
    task.send("verdicts", verdicts, homes.of(verdicts["row"]))


def write_shards(inputs: Mapping[str, Artifact], task: Task) -> None:
    """Write the selection of the shards of a home; the facts have samples of duplicates."""
    verdicts = task.receive("verdicts", [("row", UP)])
    known = verdicts["row"].to_numpy()
    total: Funnel = funnel("images", [])
    for shard, path in task.spec:
        rows = input_rows(inputs, shard, path)
        numbers = row_numbers(shard, rows.num_rows)
        there = np.isin(numbers, known)
        own = pa.array(np.searchsorted(known, numbers), mask=~there)
        told = {name: verdicts[name].take(own) for name in ("cluster", "cosine", "uid")}
        duplicate = told["uid"].is_valid().to_pylist()
        reasons: list[str | None] = [Drop.SEMANTIC_DUPLICATE.value if one else None for one in duplicate]
        if not there.all():
            why = missing_reasons(inputs["embeddings"], shard)
            for row in np.flatnonzero(~there).tolist():
                reasons[row] = why.get(rows["uid"][row].as_py(), Drop.NO_EMBEDDING.value)
        rows = with_column(rows, "semantic_cluster", told["cluster"])
        rows = with_column(rows, "semantic_similarity", told["cosine"])
        total += write_selection(task.output, shard, rows, reasons, {"duplicate_of": told["uid"]})
    task.funnel = total
    if task.number < _SHOWN:
        task.facts["duplicates"] = _samples(verdicts)


def _samples(verdicts: pa.Table) -> list[tuple[int, int, float]]:
    """A few duplicates, by hash: row, the one that stays, and the cosine with the most similar one before."""
    duplicates = verdicts.filter(verdicts["uid"].is_valid())
    columns: list[list[Any]] = [duplicates[name].to_pylist() for name in ("row", "original", "cosine")]
    return sorted(zip(*columns, strict=True), key=lambda one: hash64(str(one[0])))[: gallery.COUNT // 2]

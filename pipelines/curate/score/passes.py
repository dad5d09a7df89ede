"""The two passes of scoring, on the cluster: collect what must be known of all rows, then score shard by shard."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.errors import DataError
from infra.formats.shards import shard_name
from infra.formats.vectors import Vectors, read_vectors, vector_shards
from infra.run.context import Context, Output, ShardOutput
from infra.run.manifest import Artifact, ShardRecord
from infra.schema import Drop
from infra.store import Store
from pipelines.curate.embedded import input_rows, missing_reasons, vector_places
from pipelines.curate.score.config import Config
from pipelines.curate.score.scores import Score
from pipelines.curate.vectors import gathered
from pipelines.layout import downloads
from pipelines.tables import (
    SELECTION_COLUMNS,
    with_column,
    write_selection,
)

__all__ = ["clean", "collect", "lots", "means", "merge", "most_rows", "score_shards"]

_LOT = 100_000  # rows of a task of the first pass
_FOLDER = "first_pass"  # of what is collected, removed in the end

Arrays = Mapping[str, NDArray[Any]]


# --- first pass -------------------------------------------------------------------------------------------------------


def lots(score: Score, inputs: Mapping[str, Artifact]) -> Iterator[tuple[str, tuple[Score, str, list[str], int]]]:
    """The tasks of ``score``'s first pass: name, and score, input, shards and the number of captions in all."""
    source = score.over if score.over != "embeddings" else score.embeddings
    artifact = inputs[source]
    rows = {file.path: file.rows or 0 for file in artifact.files("data/", ".parquet")}
    total = artifact.manifest.facts.get("captions", sum(rows.values()))
    lot: list[str] = []
    size = number = 0
    for shard in vector_shards(artifact):
        lot.append(shard)
        size += rows.get(f"data/{shard}.parquet", 0)
        if size >= _LOT:
            yield f"{score.name}-{number:05d}", (score, source, lot, total)
            lot, size, number = [], 0, number + 1
    if lot:
        yield f"{score.name}-{number:05d}", (score, source, lot, total)


def collect(
    config: Config, inputs: Mapping[str, Artifact], spec: tuple[Score, str, list[str], int], output: ShardOutput
) -> ShardRecord:
    """Write what ``score`` must know of the rows of some shards, a file for each of its arrays."""
    score, source, shards, total = spec
    store = inputs[source].store
    found = [score.collect(read_vectors(store, shard, config.embedding), total) for shard in shards]
    names = list(found[0])
    for name in names:
        _write(output, f"{_FOLDER}/{output.shard}/{name}.npy", score.merge(name, iter([part[name] for part in found])))
    return output.commit(facts={"arrays": names})


def merge(store: Store, lots: Sequence[str], score: Score, output: ShardOutput) -> ShardRecord:
    """Merge what the lots of ``score`` have collected, one array after the other."""
    paths = store.paths(_FOLDER)
    own = [lot for lot in lots if lot.rpartition("-")[0] == score.name]
    names = sorted({Path(path).stem for path in paths for lot in own if path.startswith(f"{_FOLDER}/{lot}/")})
    for name in names:
        parts = (_read(store, f"{_FOLDER}/{lot}/{name}.npy") for lot in own)
        _write(output, f"{_FOLDER}/known-{score.name}/{name}.npy", score.merge(name, parts))
    return output.commit(facts={"arrays": names})


def clean(context: Context, tasks: Sequence[str]) -> None:
    """Remove what the ``tasks`` of the first pass have left: first that they are done, then their files."""
    context.ledger.forget(*tasks)
    context.store.delete(_FOLDER)


def _write(output: Output, path: str, array: NDArray[Any]) -> None:
    with output.open(path) as sink:
        np.lib.format.write_array(sink, array)


def _read(store: Store, path: str) -> NDArray[Any]:
    with store.open(path) as source:
        array: NDArray[Any] = np.load(source, allow_pickle=False)
    return array


def _known(config: Config, inputs: Mapping[str, Artifact], store: Store, folder: Path) -> dict[str, Arrays]:
    """Arrays loaded and collected, by score; the latter stay on disk (a copy in ``folder``) until they are used."""
    known: dict[str, Arrays] = {}
    for score in config.scores:
        paths = store.paths(f"{_FOLDER}/known-{score.name}") if score.over else []
        maps = {Path(path).stem: np.load(store.fetch(path, folder), mmap_mode="r") for path in paths}
        known[score.name] = {**score.load(inputs), **maps}
    return known


# --- second pass ------------------------------------------------------------------------------------------------------


def most_rows(selection: Artifact | None, inputs: Mapping[str, Artifact]) -> int:
    """Rows of the largest shard that is scored."""
    artifacts = [selection] if selection else downloads(inputs)
    files = [file for artifact in artifacts for file in artifact.files("data/", ".parquet")]
    return max((file.rows or 0 for file in files if not file.path.startswith("data/dropped")), default=0)


def score_shards(
    config: Config,
    inputs: Mapping[str, Artifact],
    store: Store,
    batch: Sequence[tuple[tuple[int, str], ShardOutput]],
) -> Iterator[ShardRecord]:
    """Write the scored selection of each shard. A row without vectors is dropped, with the reason why it has none."""
    if taken := {score.name for score in config.scores} & set(SELECTION_COLUMNS):
        raise DataError(f"a score has the column {min(taken)!r}, which selections have", fix="set its field column")
    tables = [input_rows(inputs, number, path) for (number, path), _ in batch]
    shards = [shard_name(number) for (number, _), _ in batch]
    uids = {uid for table in tables for uid in table["uid"].to_pylist()}
    sources = {
        name: gathered(inputs[name], config.embedding, shards, uids)
        for name in dict.fromkeys(score.embeddings for score in config.scores)
    }
    with tempfile.TemporaryDirectory() as folder:
        known = _known(config, inputs, store, Path(folder))
        for ((number, _), output), rows in zip(batch, tables, strict=True):
            yield _score(config, inputs, sources, known, number, rows, output)


def _score(
    config: Config,
    inputs: Mapping[str, Artifact],
    sources: Mapping[str, Vectors],
    known: Mapping[str, Arrays],
    number: int,
    rows: pa.Table,
    output: ShardOutput,
) -> ShardRecord:
    """Write one shard."""
    place = {name: vector_places(rows, vectors) for name, vectors in sources.items()}
    there = np.logical_and.reduce([found >= 0 for found in place.values()])
    reasons: list[str | None] = [None] * rows.num_rows
    why: dict[str, str] = {}
    for name in sources if not there.all() else ():
        why |= missing_reasons(inputs[name], number)
    for row in np.flatnonzero(~there).tolist():
        reasons[row] = why.get(rows["uid"][row].as_py(), Drop.NO_EMBEDDING.value)
    taken = {name: vectors.take(place[name][there]) for name, vectors in sources.items()}

    facts = {}
    for score in config.scores:
        vectors = taken[score.embeddings]
        some = len(vectors.uids) > 0  # nothing has no length of vectors, which many a computation cannot handle
        values = _checked(score, vectors, score.values(vectors, known[score.name]) if some else np.empty(0))
        lists = bool(inputs[score.embeddings].manifest.facts.get("lists"))
        column = _column(score, vectors, values, there, lists)
        rows = with_column(rows, score.name, column)
        known_values = values[~np.isnan(values)]
        facts[score.name] = [float(known_values.sum(dtype=np.float64)), len(known_values)]
    return output.commit(write_selection(output, number, rows, reasons), {"sums": facts})


def _checked(score: Score, vectors: Vectors, values: Any) -> NDArray[np.float32]:  # noqa: ANN401 - a user's
    """``values``, if there is one for each caption or image."""
    result: NDArray[Any] = np.asarray(values)
    count = len(vectors.images if score.of == "image" else vectors.texts)
    if result.shape != (count,) or result.dtype.kind not in "fiub":
        raise DataError(
            f"score {score.name!r} did not return one number per {score.of}",
            expected=f"{count} numbers",
            found=f"an array of shape {result.shape} and type {result.dtype}",
        )
    return result.astype(np.float32)


def _column(
    score: Score, vectors: Vectors, values: NDArray[np.float32], there: NDArray[np.bool_], lists: bool
) -> pa.Array:
    """The values as a column of all rows: null for those that are not ``there`` or have no caption."""
    if score.of == "image":
        column = pa.array(values, from_pandas=True)  # NaN becomes null
    else:
        counts = np.bincount(vectors.row_of, minlength=len(vectors.uids))
        ends = np.cumsum(counts)
        column = pa.array(values, from_pandas=True)
        if lists:
            column = pa.ListArray.from_arrays(pa.array(np.append(0, ends), pa.int32()), column)
        else:
            column = column.take(pa.array(ends - counts, mask=counts == 0))
    places = np.where(there, np.cumsum(there) - 1, -1)
    return column.take(pa.array(places, mask=places < 0))


def means(scores: Sequence[Score], records: Sequence[ShardRecord]) -> dict[str, float]:
    """The mean of each score over all rows that have it."""
    found = {}
    for score in scores:
        total, count = np.sum([record.facts["sums"][score.name] for record in records] or [[0, 0]], axis=0)
        if count:
            found[score.name] = float(total / count)
    return found

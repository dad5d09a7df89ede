"""Vectors that others have made, brought to the shards of the rows that they belong to.

Such embeddings lie in shards of their own, in any order: to find those of one shard's rows all would be looked through,
for each shard again. So rows and vectors meet by their ``uid`` over the exchange, once, and from then on vectors lie as
clipline's own stage ``embed`` would have left them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.cluster import Limits
from infra.errors import DataError
from infra.exchange import UP, Exchange, Task, parts_of
from infra.formats.shards import shard_name
from infra.formats.vectors import read_stored, vector_shards, write_arrays
from infra.hashing import hash64
from infra.run.context import Context
from infra.run.manifest import Artifact, File
from pipelines.curate.dedup.homes import Homes, part_of, places_of, row_numbers
from pipelines.curate.embedded import input_rows
from pipelines.curate.vectors import as_bytes
from pipelines.layout import counted_shards

__all__ = ["joined", "joined_inputs"]

_SMALL = 5_000  # vectors that need no cluster
_ROWS = 50_000  # of a task, whose vectors it holds at once
_FOLDER = "joined"

VECTORS = pa.schema(
    [
        *(("uid", pa.string()), ("count", pa.int32()), ("half", pa.bool_())),
        *(("image", pa.large_binary()), ("texts", pa.large_binary())),
    ]
)
"""A row's vector and those of its ``count`` texts, one after the other: float16 (``half``) or float32."""


@contextmanager
def joined_inputs(
    context: Context, limits: Limits, inputs: Mapping[str, Artifact], names: Iterable[str], model: str | None
) -> Iterator[dict[str, Artifact]]:
    """``inputs`` with those of these ``names``, embeddings, as :func:`joined` brings them to the shards of the rows.

    What was written for it is deleted at the end of the block, but not if that fails: the next attempt goes on with it.
    """
    yield {**inputs, **{name: joined(context, limits, inputs, name, model) for name in names}}
    context.store.delete(_FOLDER)


def joined(context: Context, limits: Limits, inputs: Mapping[str, Artifact], name: str, model: str | None) -> Artifact:
    """The embeddings ``inputs[name]`` by ``model``, in the shards of the rows of ``images`` or ``selection``.

    Those of our own ``embed`` stage are so already, and returned as they are. Others are written beside the stage's
    output, in a folder that is deleted by :func:`joined_inputs`. Of several rows of one ``uid`` the first counts.
    """
    artifact = inputs[name]
    shards = counted_shards(inputs)
    theirs = vector_shards(artifact)
    ours = artifact.manifest.location is None and {shard_name(shard) for shard, *_ in shards} <= set(theirs)
    if ours or not shards:
        return artifact
    rows = {file.path: file.rows or 0 for file in artifact.each_file("data/", ".parquet")}
    total = sum(rows.values())
    parts = parts_of(max(total, sum(count for *_, count in shards)), _ROWS)
    exchange = Exchange(context, limits, here=total <= _SMALL)
    homes, lots = Homes.lots(shards, _ROWS)
    _, sources = Homes.lots(
        ((place, shard, rows[f"data/{shard}.parquet"]) for place, shard in enumerate(theirs)), _ROWS
    )
    folder = f"{_FOLDER}/{name}"

    vectors, wanted, met = f"vectors-{name}", f"rows-{name}", f"met-{name}"  # streams
    exchange.step(vectors, sources, partial(_send_vectors, artifact, model, parts, vectors), sends={vectors: parts})
    exchange.step(wanted, lots, partial(_send_rows, inputs, parts, wanted), sends={wanted: parts})
    meet = partial(_meet, homes, vectors, wanted, met)
    exchange.step(met, range(parts), meet, receives=[vectors, wanted], sends={met: homes.count})
    exchange.step(f"home-{name}", lots, partial(_write, folder, model or "clip", met), receives=[met])

    files = [File(f"data/{shard_name(shard)}.{ending}", 0) for shard, *_ in shards for ending in ("npz", "parquet")]
    manifest = msgspec.structs.replace(artifact.manifest, location=None, pieces=[], files=files)
    return Artifact(context.store.child(folder), manifest)


def _send_vectors(artifact: Artifact, model: str | None, parts: int, stream: str, task: Task) -> None:
    """Stream ``stream``: the vectors of some shards (:data:`VECTORS`), by the rows' ``uid``."""
    tables = [VECTORS.empty_table()]
    for _, shard in task.spec:
        stored = read_stored(artifact.store, shard, model)
        half = stored.images.dtype == stored.texts.dtype == np.float16
        dtype = np.float16 if half else np.float32
        ends = np.append(0, np.cumsum(stored.counts))
        columns = {
            "uid": pa.array(stored.uids, pa.string()),
            "count": pa.array(stored.counts.astype(np.int32)),
            "half": pa.array(np.full(len(stored.uids), half)),
            "image": as_bytes(stored.images.astype(dtype, copy=False), np.arange(len(stored.uids) + 1)),
            "texts": as_bytes(stored.texts.astype(dtype, copy=False), ends),
        }
        tables.append(pa.table(columns, schema=VECTORS))
    every = pa.concat_tables(tables)
    task.send(stream, every, _part(every["uid"], parts))


def _send_rows(inputs: Mapping[str, Artifact], parts: int, stream: str, task: Task) -> None:
    """Stream ``stream``: the ``uid`` and number of each row of some shards, by ``uid``."""
    uids, rows = [pa.array([], pa.string())], [np.empty(0, np.int64)]
    for shard, path in task.spec:
        own = input_rows(inputs, shard, path)["uid"]
        uids += own.cast(pa.string()).chunks
        rows.append(row_numbers(shard, len(own)))
    every = pa.table({"uid": pa.chunked_array(uids), "row": np.concatenate(rows)})
    task.send(stream, every, _part(every["uid"], parts))


def _meet(homes: Homes, vectors: str, rows: str, stream: str, task: Task) -> None:
    """Stream ``stream``: each row that has vectors, with these, to its home."""
    found, wanted = task.receive(vectors), task.receive(rows)
    places = pc.index_in(wanted["uid"], value_set=found["uid"].combine_chunks())
    there = places.is_valid()
    met = found.take(places.filter(there)).append_column("row", wanted["row"].filter(there))
    task.send(stream, met, homes.of(met["row"]))


def _write(folder: str, model: str, stream: str, task: Task) -> None:
    """Write the vectors of a home's shards; a shard of whose rows none has any gets empty files."""
    met = task.receive(stream, [("row", UP)])
    for shard, _ in task.spec:
        place = places_of(met["row"].to_numpy(), shard)
        own = met.slice(place.start, place.stop - place.start)
        path = f"{folder}/data/{shard_name(shard)}"
        task.output.write_table(f"{path}.parquet", pa.table({"uid": own["uid"], "captions": own["count"]}))
        arrays = {f"{model}_img": _vectors(own, "image"), f"{model}_txt": _vectors(own, "texts")}
        write_arrays(task.output, f"{path}.npz", arrays, rows=own.num_rows)


def _part(uids: pa.ChunkedArray, parts: int) -> NDArray[np.int64]:
    hashes = (hash64(uid or "") for uid in uids.to_pylist())
    return part_of(np.fromiter(hashes, np.uint64, len(uids)), parts)


def _vectors(rows: pa.Table, column: str) -> NDArray[np.floating]:
    """Decode a column of :func:`as_bytes`: (m, d), float16 if all rows are. Raises DataError if they differ in d."""
    types = [np.float16 if half else np.float32 for half in rows["half"].to_pylist()]
    found = [np.frombuffer(data, type) for data, type in zip(rows[column].to_pylist(), types, strict=True)]
    sizes = zip(pc.binary_length(rows["image"]).to_pylist(), types, strict=True)
    widths = {size // np.dtype(type).itemsize for size, type in sizes} or {1}
    if len(widths) > 1:
        raise DataError("the vectors of one model are not equally long", found=f"{sorted(widths)} numbers")
    return np.concatenate([np.empty(0, np.float16), *found]).reshape(-1, *widths)

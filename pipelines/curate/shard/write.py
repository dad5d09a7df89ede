"""Second pass over the images: from the runs to the new shards.

A task writes some neighbouring shards. Its samples are one piece of each run, which it reads front to back, some
hundred megabytes of all of them at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice, pairwise
from operator import itemgetter

import numpy as np
import pyarrow as pa

from infra.arrays import begins_run
from infra.exchange import UP, Task
from infra.formats.shards import TarWriter, sample_key, shard_name
from infra.store import Store
from pipelines.curate.shard.gather import IN_ORDER, run_path

__all__ = ["shard_path", "write_shards"]

_BYTES = 128 << 20  # of samples in memory, about

Members = Mapping[str, bytes]


def shard_path(held_out: bool, number: int) -> str:
    return f"data/holdout/test/{number}.tar" if held_out else f"data/train/{shard_name(number)}.tar"


def write_shards(per_shard: int, task: Task) -> None:
    """Write the shards of a task, whose ``spec`` says whether they are held out, and the rank of their first sample."""
    held_out, first = task.spec
    rows = task.receive("places", [("rank", UP), *IN_ORDER[2:]])
    ranks = rows["rank"].to_numpy()
    counts = np.bincount((ranks[begins_run(ranks)] - first) // per_shard)
    samples = groupby(_read(rows, task.output.store), key=itemgetter(0))
    for number, count in enumerate(counts.tolist(), start=first // per_shard):
        with task.output.open(shard_path(held_out, number), rows=count) as sink, TarWriter(sink) as tar:
            for index, (_, group) in enumerate(islice(samples, count)):
                members = [members for _, members in group]
                key = sample_key(number, index, per_shard)
                for extension, data in (_together(members) if held_out else members[0]).items():
                    tar.add(f"{key}.{extension}", data)


def _together(rows: Sequence[Members]) -> Members:
    """One sample of all rows of an image: what is known of each row, and the distinct captions, one a line."""
    pairs = b", ".join(members["json"] for members in rows if "json" in members)
    texts = dict.fromkeys(members["txt"] for members in rows if "txt" in members)
    return {**rows[0], "json": b'{"pairs": [' + pairs + b"]}", "txt": b"\n".join(texts)}


def _read(rows: pa.Table, store: Store) -> Iterator[tuple[int, Members]]:
    """Rank and members of each of ``rows``, which come in order."""
    sizes = np.array([sum(each) for each in rows["sizes"].to_pylist()], np.int64)
    chunks = (np.cumsum(sizes) - sizes) // _BYTES
    bounds = [*np.flatnonzero(begins_run(chunks)).tolist(), len(chunks)]
    for start, end in pairwise(bounds):
        yield from _read_chunk(rows.slice(start, end - start), sizes[start:end], store)


def _read_chunk(rows: pa.Table, sizes: np.ndarray, store: Store) -> Iterator[tuple[int, Members]]:
    runs, offsets = rows["run"].to_numpy(), rows["offset"].to_numpy()
    order = np.argsort(runs, kind="stable")
    firsts = order[begins_run(runs[order])]
    lasts = order[begins_run(runs[order][::-1])[::-1]]
    pieces = list(zip(firsts.tolist(), lasts.tolist(), strict=True))
    ranges = [(run_path(int(runs[one])), int(offsets[one]), int(offsets[last] + sizes[last])) for one, last in pieces]
    found = zip(pieces, store.read_ranges(ranges), strict=True)
    data = {int(runs[one]): (int(offsets[one]), memoryview(piece)) for (one, _), piece in found}
    columns = (rows[name].to_pylist() for name in ("rank", "extensions", "sizes"))
    for rank, extensions, lengths, run, offset in zip(*columns, runs.tolist(), offsets.tolist(), strict=True):
        begin, piece = data[run]
        members, place = {}, offset - begin
        for extension, length in zip(extensions, lengths, strict=True):
            members[extension] = bytes(piece[place : place + length])
            place += length
        yield rank, members

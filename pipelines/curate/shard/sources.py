"""Read the rows of a selection with their images, tar by tar."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa

from infra.exchange import Task
from infra.formats.shards import IMAGE_EXTENSIONS, read_tar, shard_name, split_name
from infra.run.manifest import Artifact, Funnel
from infra.schema import Drop
from infra.store import Store
from pipelines.curate.shard.gather import Sample
from pipelines.curate.shard.split import REPEATS
from pipelines.layout import Images, downloads, selection_shards
from pipelines.tables import read_table, with_column

__all__ = ["LOT_BYTES", "Lot", "in_lots", "lots_of", "selected_images"]

T = TypeVar("T")

LOT_BYTES, _ROWS = 512 << 20, 50_000  # of a lot, about
_AT_ONCE = 10_000  # rows as Python objects

Lot = Sequence[tuple[int, str]]
"""Number and table of some neighbouring shards of a selection."""

_IDS = ("uid", "key", "sha256", "cluster", REPEATS)


def lots_of(images: Mapping[str, Artifact], selection: Artifact) -> Sequence[Lot]:
    """The shards of ``selection`` in lots of about half a gigabyte of images; at least one."""
    sizes = {file.path: file.bytes for artifact in downloads(images) for file in artifact.each_file("data/", ".tar")}
    rows = {file.path: file.rows or 0 for file in selection.each_file()}
    return in_lots(
        ((shard, path), max(sizes.get(f"data/{shard_name(shard)}.tar", 0) / LOT_BYTES, rows[path] / _ROWS))
        for shard, path in selection_shards(selection)
    )


def in_lots(items: Iterable[tuple[T, float]]) -> list[list[T]]:
    """Neighbouring items, given with the share of a lot that each fills, in lots that are full; at least one."""
    lots: list[list[T]] = []
    room = 0.0
    for item, share in items:
        if room <= 0:
            lots.append([])
            room = 1.0
        lots[-1].append(item)
        room -= share
    return lots or [[]]


def selected_images(images: Images, selection: Store, task: Task) -> Iterator[Sample]:
    """The rows of a task's lot with their images, in the order of the tars; each tar is read once, front to back.

    Rows without an image are written as dropped. The funnel of all is that of the task.
    """
    entered = missing = 0
    for shard, path in task.spec:
        rows = read_table(selection, path)
        found = np.zeros(rows.num_rows, bool)
        for place, sample in _of_table(images, rows):
            found[place] = True
            yield sample
        entered += rows.num_rows
        if not found.all():
            dropped = rows.filter(pa.array(~found))
            missing += dropped.num_rows
            reasons = pa.repeat(pa.scalar(str(Drop.MISSING)), dropped.num_rows)
            task.output.write_table(
                f"data/dropped-{shard_name(shard)}.parquet", with_column(dropped, "reason", reasons)
            )
    dropped_for = {str(Drop.MISSING): missing} if missing else {}
    task.funnel = Funnel(unit="images", entered=entered, kept=entered - missing, dropped=dropped_for)


def _of_table(images: Images, rows: pa.Table) -> Iterator[tuple[int, Sample]]:
    """Place and sample of the rows that have an image."""
    ids = rows.select([name for name in _IDS if name in rows.column_names])
    documents, texts = _documents(rows)
    wanted: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, (shard, key) in enumerate(zip(rows["shard"].to_pylist(), rows["key"].to_pylist(), strict=True)):
        wanted[shard][key].append(place)
    for shard in sorted(wanted):
        for key, extension, image in _images(images, shard, wanted[shard].keys()):
            for place in wanted[shard][key]:
                (row,) = ids.slice(place, 1).to_pylist()
                yield place, Sample(row, {extension: image, "json": documents[place], "txt": texts[place]})


def _images(images: Images, shard: int, keys: Collection[str]) -> Iterator[tuple[str, str, bytes]]:
    """Key, extension and bytes of the image of each of ``keys`` that the tar of ``shard`` has."""
    left = set(keys)
    with images.tar(shard) as tar:
        for name, data in read_tar(tar, place=images.store(shard).locate(f"data/{shard_name(shard)}.tar")):
            parts = split_name(name)
            if parts and parts[0] in left and parts[1] in IMAGE_EXTENSIONS:
                left.remove(parts[0])
                yield *parts, data
                if not left:
                    return


def _documents(rows: pa.Table) -> tuple[list[bytes], list[bytes]]:
    """Return each row's columns as JSON, and its caption in one line."""
    documents, texts = [], []
    for batch in rows.to_batches(_AT_ONCE):
        for row in batch.to_pylist():
            # Columns that users add may hold dates and the like: these are written as text.
            documents.append(json.dumps(row, ensure_ascii=False, default=str).encode())
            texts.append(" ".join((row.get("caption") or "").split()).encode())
    return documents, texts

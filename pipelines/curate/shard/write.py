"""Find the images in the source tars and copy them into new shards, on the cluster."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from infra.formats.shards import TarWriter, sample_key, shard_name
from infra.run.context import ShardOutput
from infra.run.manifest import ShardRecord
from pipelines.curate.shard.split import Row
from pipelines.layout import Images, find_images

__all__ = ["Part", "Place", "Sample", "index_shard", "write_shard"]

Part = Literal["train", "holdout"]


class Place(NamedTuple):
    """An image's bytes in the downloads: shard number, offset and size in bytes, file extension."""

    shard: int
    offset: int
    size: int
    extension: str


class Sample(NamedTuple):
    """An image of a new tar, and the rows of its captions."""

    place: Place
    rows: tuple[Row, ...]

    @property
    def text(self) -> str:
        """The distinct captions, one a line."""
        return "\n".join(dict.fromkeys(" ".join((row["caption"] or "").split()) for row in self.rows))


def index_shard(images: Images, spec: tuple[int, list[str]], output: ShardOutput) -> ShardRecord:
    """Record the places of the images with the given keys that one source tar has."""
    shard, keys = spec
    with images.tar(shard) as tar:
        return output.commit(facts={"places": find_images(tar, set(keys))})


def write_shard(
    images: Images, per_shard: int, spec: tuple[Part, int, Sequence[Sample]], output: ShardOutput
) -> ShardRecord:
    """Write one training or holdout tar; no more than its own images are in memory."""
    part, number, samples = spec
    path = f"data/train/{shard_name(number)}.tar" if part == "train" else f"data/holdout/test/{number}.tar"
    data = _read([sample.place for sample in samples], images)
    with output.open(path, rows=len(samples)) as sink, TarWriter(sink) as tar:
        for index, sample in enumerate(samples):
            key = sample_key(number, index, per_shard)
            known = sample.rows[0] if part == "train" else {"pairs": sample.rows}
            tar.add(f"{key}.{sample.place.extension}", data[sample.place])
            # Columns that users add may hold dates and the like: these are written as text.
            tar.add(f"{key}.json", json.dumps(known, ensure_ascii=False, default=str).encode())
            tar.add(f"{key}.txt", sample.text.encode())
    return output.commit()


def _read(places: Sequence[Place], images: Images) -> dict[Place, bytes]:
    """The images at ``places``; each source tar is opened once and read front to back."""
    found = {}
    by_shard: dict[int, list[Place]] = defaultdict(list)
    for place in sorted(set(places)):
        by_shard[place.shard].append(place)
    for shard, members in by_shard.items():
        with images.tar(shard) as tar:
            for place in members:
                tar.seek(place.offset)
                found[place] = tar.read(place.size)
    return found

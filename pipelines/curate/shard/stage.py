"""Shard: the last step of the data. One global shuffle, standard training shards, and a holdout that shares no image.

``data/train/{n}.tar`` with ``sizes.json`` is what open_clip, webdataset and img2dataset users expect;
``data/holdout`` is a retrieval test set in CLIP_benchmark's layout. Image bytes are copied unchanged.

The shuffle is decided on rows alone; then each new shard reads its own images by their offset in the source tars, so
no more than one shard of images is ever in a worker's memory.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from infra.cluster import run_shards
from infra.formats.shards import shard_name
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from infra.schema import Drop
from pipelines.curate.shard.config import Config
from pipelines.curate.shard.split import Row, shuffle_and_split
from pipelines.curate.shard.write import Part, Place, Sample, index_shard, write_shard
from pipelines.layout import Images, funnel, selection_shards

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``selection`` of ``images`` -> ``data/train`` and ``data/holdout``."""
    import pyarrow as pa

    from pipelines.tables import read_table

    images, selection = Images.of(inputs), inputs["selection"]
    every = [row for _, path in selection_shards(selection) for row in read_table(selection.store, path).to_pylist()]

    # The samples of each new shard, with the places of their images. A row without one is dropped.
    places = _places(every, images, config, context)
    rows = [row for row in every if row["key"] in places]
    train, holdout = shuffle_and_split(rows, config)
    parts: dict[Part, list[Sample]] = {
        "train": [Sample(places[row["key"]], (row,)) for row in train],
        "holdout": [Sample(places[group[0]["key"]], tuple(group)) for group in holdout],
    }
    shards = [(part, *chunk) for part, samples in parts.items() for chunk in _chunks(samples, config.samples_per_shard)]
    records = run_shards(
        context,
        [(f"{part}-{shard_name(number)}", (part, number, samples)) for part, number, samples in shards],
        partial(write_shard, images, config.samples_per_shard),
        config.limits,
    )

    # The small files that readers of the two formats look for.
    sizes = {f"{shard_name(number)}.tar": len(samples) for part, number, samples in shards if part == "train"}
    context.output.write("data/train/sizes.json", json.dumps(sizes, indent=1).encode())
    context.output.write("data/holdout/dataset_type.txt", b"retrieval")
    context.output.write("data/holdout/test/nshards.txt", str(len(shards) - len(sizes)).encode())
    _figures(context, images, parts)
    facts = {"train": len(train), "holdout": len(holdout), "holdout_captions": len(rows) - len(train)}
    if missing := [{**row, "reason": str(Drop.MISSING)} for row in every if row["key"] not in places]:
        context.output.write_table("data/dropped.parquet", pa.Table.from_pylist(missing))
    account = funnel("images", [None] * len(rows) + [Drop.MISSING] * len(missing))
    return context.finish(records, funnel=account, facts=facts)


def _chunks(samples: Sequence[Sample], size: int) -> Iterator[tuple[int, Sequence[Sample]]]:
    """Number and samples of each shard."""
    for number, start in enumerate(range(0, len(samples), size)):
        yield number, samples[start : start + size]


def _places(rows: Sequence[Row], images: Images, config: Config, context: Context) -> dict[str, Place]:
    """The place of each row's image that is in its tar, by key; each tar is indexed once, on the cluster."""
    keys: dict[int, list[str]] = defaultdict(list)
    for row in rows:
        keys[row["shard"]].append(row["key"])
    specs = [(f"index-{shard_name(shard)}", (shard, keys[shard])) for shard in sorted(keys)]
    records = run_shards(context, specs, partial(index_shard, images), config.limits)
    return {
        key: Place(shard, *place)
        for shard, record in zip(sorted(keys), records, strict=True)
        for key, place in record.facts["places"].items()
    }


def _figures(context: Context, images: Images, parts: Mapping[Part, Sequence[Sample]]) -> None:
    import pyarrow as pa

    from pipelines.curate import gallery

    for name, samples in parts.items():
        if samples:
            gallery.of_rows(context, images, name, [pa.Table.from_pylist([sample.rows[0] for sample in samples])])

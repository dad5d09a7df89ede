"""The last step of the data: one global shuffle, training shards anyone can read, and a holdout that shares no image.

``data/train/{n}.tar`` with ``sizes.json`` is what open_clip, webdataset and img2dataset users expect;
``data/holdout`` is a retrieval dataset in CLIP_benchmark's layout. Image bytes are copied as they are.

The shuffle is decided on rows alone; then each new shard reads its own images by their offset in the source tars, so
no more than one shard of images is ever in a worker's memory.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from infra.cluster import Limits, run_shards
from infra.config import Input, Runtime, StageConfig
from infra.formats.shards import TarWriter, sample_key, shard_name
from infra.hashing import hash64
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact, Funnel, Manifest, ShardRecord
from pipelines.tables import Images, find_images, read_table, selection_shards

__all__ = ["Config", "Place", "Sample", "arrange", "run"]

Row = dict[str, Any]
Part = Literal["train", "holdout"]


class Config(StageConfig):
    inputs: ClassVar[Mapping[str, Input]] = {
        "images": Input("images", repeated=True),
        "selection": Input("selection"),
    }
    produces: ClassVar[tuple[str, ...]] = ("shards", "testsets")

    samples_per_shard: int = Field(1000, gt=1, description="samples in a shard")
    holdout_fraction: float = Field(0.05, ge=0, lt=1, description="share of the images kept from training")
    seed: int = Field(0, description="of the shuffle and of the split")
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")


class Place(NamedTuple):
    """Where an image's bytes lie in the downloads."""

    shard: int
    offset: int
    size: int
    extension: str


class Sample(NamedTuple):
    """An image of a tar to be, and its captions with all that is known of each."""

    place: Place
    rows: tuple[Row, ...]

    @property
    def text(self) -> str:
        """The captions, one a line, each once."""
        return "\n".join(dict.fromkeys(" ".join(row["caption"].split()) for row in self.rows))


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``selection`` of ``images`` -> ``data/train`` and ``data/holdout``."""
    images, selection = Images.of(inputs), inputs["selection"]
    rows = [row for _, path in selection_shards(selection) for row in read_table(selection.store, path).to_pylist()]
    train, holdout = arrange(rows, config)

    places = _places(rows, images, config, context)
    parts: dict[Part, list[Sample]] = {
        "train": [Sample(places[row["key"]], (row,)) for row in train],
        "holdout": [Sample(places[group[0]["key"]], tuple(group)) for group in holdout],
    }
    lots = [(part, *lot) for part, samples in parts.items() for lot in _lots(samples, config.samples_per_shard)]
    records = run_shards(
        context,
        [(f"{part}-{shard_name(number)}", (part, number, samples)) for part, number, samples in lots],
        partial(_write, images, config.samples_per_shard),
        config.limits,
    )
    sizes = {f"{shard_name(number)}.tar": len(samples) for part, number, samples in lots if part == "train"}
    context.output.write("data/train/sizes.json", json.dumps(sizes, indent=1).encode())
    context.output.write("data/holdout/dataset_type.txt", b"retrieval")
    context.output.write("data/holdout/test/nshards.txt", str(len(lots) - len(sizes)).encode())
    _figures(context, images, parts)
    facts = {"train": len(train), "holdout": len(holdout), "holdout_captions": len(rows) - len(train)}
    return context.finish(records, funnel=Funnel(unit="images", entered=len(rows), kept=len(rows)), facts=facts)


# --- what goes where --------------------------------------------------------------------------------------------------


def arrange(rows: Sequence[Row], config: Config) -> tuple[list[Row], list[list[Row]]]:
    """The training rows, shuffled, and the rows held out, shuffled and grouped by image.

    Both follow from hashes of the rows' own names, so neither the order nor the shards they came in have a say.
    An image is known by the digest of its bytes: all its rows are on the same side.
    """
    train: list[Row] = []
    holdout: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (hash64(f"{config.seed}/order/{row['uid']}"), row["key"])):
        content = row["sha256"] or row["uid"]
        if hash64(f"{config.seed}/split/{content}") < config.holdout_fraction * 2**64:
            holdout[content].append(row)
        else:
            train.append(row)
    return train, list(holdout.values())


def _lots(samples: Sequence[Sample], size: int) -> Iterator[tuple[int, Sequence[Sample]]]:
    for number, start in enumerate(range(0, len(samples), size)):
        yield number, samples[start : start + size]


def _places(rows: Sequence[Row], images: Images, config: Config, context: Context) -> dict[str, Place]:
    """Where each row's image lies, by key; found once per source tar, on the cluster."""
    keys: dict[int, list[str]] = defaultdict(list)
    for row in rows:
        keys[row["shard"]].append(row["key"])
    specs = [(f"index-{shard_name(shard)}", (shard, keys[shard])) for shard in sorted(keys)]
    records = run_shards(context, specs, partial(_index, images), config.limits)
    return {
        key: Place(shard, *place)
        for shard, record in zip(sorted(keys), records, strict=True)
        for key, place in record.facts["places"].items()
    }


def _index(images: Images, spec: tuple[int, list[str]], output: ShardOutput) -> ShardRecord:
    shard, keys = spec
    with images.tar(shard) as tar:
        return output.commit(facts={"places": find_images(tar, set(keys))})


# --- one shard --------------------------------------------------------------------------------------------------------


def _write(
    images: Images, per_shard: int, spec: tuple[Part, int, Sequence[Sample]], output: ShardOutput
) -> ShardRecord:
    part, number, samples = spec
    path = f"data/train/{shard_name(number)}.tar" if part == "train" else f"data/holdout/test/{number}.tar"
    data = _read([sample.place for sample in samples], images)
    with output.open(path, rows=len(samples)) as sink, TarWriter(sink) as tar:
        for index, sample in enumerate(samples):
            key = sample_key(number, index, per_shard)
            known = sample.rows[0] if part == "train" else {"pairs": sample.rows}
            tar.add(f"{key}.{sample.place.extension}", data[sample.place])
            tar.add(f"{key}.json", json.dumps(known, ensure_ascii=False).encode())
            tar.add(f"{key}.txt", sample.text.encode())
    return output.commit()


def _read(places: Sequence[Place], images: Images) -> dict[Place, bytes]:
    """The images at ``places``, each source tar opened once and read front to back."""
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


def _figures(context: Context, images: Images, parts: Mapping[Part, Sequence[Sample]]) -> None:
    import pyarrow as pa

    from pipelines.curate import gallery

    for name, samples in parts.items():
        if samples:
            gallery.figure(context, images, name, [pa.Table.from_pylist([sample.rows[0] for sample in samples])])

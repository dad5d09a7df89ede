"""The index of test images: what is compared with each row, and the search for the nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.arrays import begins_run
from infra.errors import DataError
from infra.formats.testset import EvalSet, decode_image
from infra.formats.vectors import Floats
from infra.run.context import Output, ShardOutput
from infra.run.manifest import Artifact, ShardRecord
from infra.store import Store
from pipelines.curate.decontaminate.config import Config
from pipelines.curate.decontaminate.neighbours import Neighbours
from pipelines.curate.dedup.alike import same
from pipelines.curate.dedup.signatures import Signature, signature
from pipelines.curate.vectors import chunks, packed, unpacked
from pipelines.tables import read_table

__all__ = ["FOLDER", "Found", "Index", "TestShard", "test_shards", "write_index"]

FOLDER = "test_index"  # in the artifact's folder until all is done
_COLUMNS = pa.schema({"key": pa.string(), "keys": pa.list_(pa.uint64()), "thumbnail": pa.large_binary()})


@dataclass(frozen=True)
class TestShard:
    """A tar of a test set. Small; pickles."""

    examples: EvalSet
    shard: int

    def name(self, key: str) -> str:
        return f"{self.examples.name}/{self.examples.split}/{key}"


def test_shards(inputs: Mapping[str, Artifact]) -> list[TestShard]:
    """The tars of all test sets with images among the inputs, in order of input, set, split and shard."""
    found = []
    for name in sorted(inputs):
        if name == "testsets" or name.startswith("testsets_"):
            for examples in EvalSet.every(inputs[name]):
                if examples.pictured:
                    found += [TestShard(examples.alone(shard), shard) for shard in examples.parts]
    return found


def write_index(config: Config, model: Artifact | None, spec: TestShard, output: ShardOutput) -> ShardRecord:
    """Write keys, thumbnails and, if there is a model, vectors of a tar's images. Raises DataError for one that cannot
    be read: the set could not be scored either."""
    images = list(spec.examples.encoded(spec.shard))
    signatures = []
    for key, data in images:
        try:
            signatures.append(signature(data, crops=config.crops, mirrored=config.mirrored))
        except DataError as error:
            raise DataError(f"the image of sample {spec.name(key)!r} cannot be decoded", found=str(error)) from error
    names, keys, thumbnails = (
        [key for key, _ in images],
        [s.all_keys for s in signatures],
        [s.thumbnail for s in signatures],
    )
    table = pa.table([names, keys, thumbnails], schema=_COLUMNS)
    if model is not None or config.pretrained is not None:
        limits = config.limits
        encoder = config.encoder(model, batch_size=config.batch_size, cpus=limits.cpus, gpus=limits.gpus)
        vectors = encoder.encode_images(decode_image(data, key) for key, data in images)
        table = table.append_column("vector", packed(vectors))
    Output(output.store).write_table(f"{FOLDER}/{output.shard}.parquet", table)
    return output.commit(facts={"images": len(images)})


@dataclass(frozen=True)
class Found:
    """A test image near a row's: its place in the index, and in how many bits their keys differ, if that is why."""

    place: int
    distance: int | None = None


class Index:
    """All test images, in memory: some 3 kB each, and their vectors."""

    def __init__(self, config: Config, table: pa.Table) -> None:
        """Build the index of ``table``: ``shard``, a number, and the columns of :func:`write_index`."""
        self.config = config
        self.shards, self.names = table["shard"].to_numpy(), table["key"]
        self._thumbnails = table["thumbnail"]
        self.vectors = unpacked(table["vector"]) if "vector" in table.column_names else None
        lists = table["keys"].to_pylist()
        self._owner = np.repeat(np.arange(len(lists)), list(map(len, lists)))
        keys = np.array([key for one in lists for key in one], np.uint64)
        self._search = Neighbours(keys, config.max_distance)

    @classmethod
    def read(cls, config: Config, store: Store, count: int) -> Index:
        tables = [read_table(store, f"{FOLDER}/test-{number:05d}.parquet") for number in range(count)]
        shards = np.repeat(np.arange(count), [table.num_rows for table in tables])
        every = pa.concat_tables(tables) if tables else _COLUMNS.empty_table()
        return cls(config, every.append_column("shard", pa.array(shards, pa.int64())))

    def near(self, keys: Sequence[Sequence[int]]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """For each row, given its keys, the places of all test images with a key within ``max_distance`` bits of one of
        them, and how many bits these are. The nearest come first, of equals the first image.
        """
        rows = np.repeat(np.arange(len(keys)), [len(one) for one in keys])
        asked, found, bits = self._search.within(np.array([key for one in keys for key in one], np.uint64))
        row, place = rows[asked], self._owner[found]
        # Of several keys of a row and an image the nearest two count.
        order = np.lexsort((bits, place, row))
        row, place, bits = (part[order] for part in (row, place, bits))
        first = begins_run(row, place)
        row, place, bits = row[first], place[first], bits[first]
        order = np.lexsort((place, bits, row))
        ends = np.searchsorted(row, np.arange(1, len(keys)))
        return list(zip(np.split(place[order], ends), np.split(bits[order], ends), strict=True)) if keys else []

    def nearest(self, one: Signature, places: NDArray[Any], bits: NDArray[Any]) -> tuple[Found | None, bool]:
        """The first of the ``places`` whose image shows the same picture; and if there were too many to look at all."""
        chosen = places[: self.config.max_compared]
        others = [self._thumbnails[int(place)].as_py() for place in chosen]
        agrees = np.flatnonzero(same(one.thumbnail, others, mirrored=self.config.mirrored))
        found = Found(int(chosen[agrees[0]]), int(bits[agrees[0]])) if len(agrees) else None
        return found, len(places) > len(chosen) and found is None

    def by_cosine(self, vectors: Floats) -> tuple[NDArray[Any], Floats]:
        """For each of ``vectors`` (n, d) the place of the test image of the highest cosine, and that; -1 without any.

        Raises DataError if they are not as long as those of the test images.
        """
        place, cosine = np.full(len(vectors), -1), np.full(len(vectors), -1, np.float32)
        if self.vectors is None or not len(self.vectors) or not len(vectors):
            return place, cosine
        if vectors.shape[1] != self.vectors.shape[1]:
            raise DataError(
                "the model is not the one of the embeddings",
                expected=f"vectors of length {vectors.shape[1]}",
                found=f"{self.vectors.shape[1]} of the test images",
            )
        for part in chunks(len(self.vectors)):
            for rows in chunks(len(vectors), 512):
                products = vectors[rows] @ self.vectors[part].T
                best = products.argmax(axis=1)
                value = products[np.arange(len(best)), best]
                nearer = value > cosine[rows]
                place[rows] = np.where(nearer, best + part.start, place[rows])
                cosine[rows] = np.where(nearer, value, cosine[rows])
        return place, cosine

"""Search the embeddings of a run: the images and captions nearest to a text or an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evaluation.embed.config import NAME
from infra import ranking
from infra.encoder.config import EncoderConfig
from infra.errors import UsageError
from infra.formats.shards import IMAGE_EXTENSIONS
from infra.formats.testset import EvalSet, decode_image
from infra.formats.vectors import read_vectors, texts_of, vector_shards
from infra.run.lineage import artifact_with
from infra.run.manifest import Artifact
from infra.store import Store
from pipelines.layout import Images, read_images
from pipelines.tables import image_table

__all__ = ["Found", "Searched", "artifact_of", "embeddings_of", "search", "test_images"]


@dataclass(frozen=True)
class Found:
    """A row with its cosine to the query; ``caption`` is what was found, or the first of an image's captions."""

    cosine: float
    uid: str
    caption: str
    image: bytes | None = None  # encoded, as it is stored


@dataclass(frozen=True)
class Searched:
    """The answers to a query in an artifact of ``rows`` images and ``captions`` captions, nearest first."""

    query: str
    artifact: str
    rows: int
    captions: int
    images: tuple[Found, ...]
    texts: tuple[Found, ...]


def embeddings_of(artifacts: Sequence[Artifact], stage: str | None) -> Artifact:
    """The last of ``artifacts`` that holds vectors of a model, or that of the ``stage``. Raises UsageError."""
    found = [one for one in artifacts if one.files("data/", ".npz") and "pretrained" in one.manifest.config]
    named = [one for one in found if stage in (None, one.manifest.stage)]
    if not named:
        known = ", ".join(one.manifest.stage for one in found)
        raise UsageError(
            f"there are no vectors of stage {stage}" if stage else "the run has no embeddings to search",
            expected=known or "a finished stage that embeds",
        )
    return named[-1]


def search(root: Store, embeddings: Artifact, query: str, most: int) -> Searched:
    """Answer ``query``, a text or the path of an image file, with the ``most`` nearest images and captions.

    The vectors are read shard by shard. Raises UsageError if the model that made them is not below ``root``.
    """
    vector = _encoded(root, embeddings, query)
    best_images, best_texts, rows, captions = _nearest(embeddings, vector, most)
    source = _Source.of(root, embeddings)
    shards = {shard for _, shard, _ in (*best_images, *best_texts)}
    tables = {shard: source.rows(shard) for shard in shards}
    images = source.images([(shard, tables[shard][row]) for _, shard, row in best_images])
    return Searched(
        query=query,
        artifact=embeddings.manifest.name,
        rows=rows,
        captions=captions,
        images=tuple(
            Found(cosine, tables[shard][row]["uid"], next(iter(tables[shard][row]["texts"]), ""), image)
            for (cosine, shard, row), image in zip(best_images, images, strict=True)
        ),
        texts=tuple(_texts(best_texts, tables))[:most],
    )


def _encoded(root: Store, embeddings: Artifact, query: str) -> NDArray[np.float32]:
    """The vector of the query by the model of the embeddings: (1, d). Raises UsageError for a missing image file."""
    is_file = Path(query).is_file()
    if not is_file and " " not in query and query.lower().endswith(tuple(f".{one}" for one in IMAGE_EXTENSIONS)):
        raise UsageError(f"there is no image file {query}", expected="an image file, or a text")
    config = embeddings.manifest.config
    fields = {name: config[name] for name in ("model", "pretrained", "precision")}
    digest = embeddings.manifest.identity["inputs"].get("model")
    encoder = EncoderConfig(**fields).encoder(
        artifact_of(root, digest) if digest else None, batch_size=1, cpus=1, gpus=0
    )
    if is_file:
        return encoder.encode_images([decode_image(Path(query).read_bytes(), query)])
    return encoder.encode_texts([query])


def artifact_of(root: Store, digest: str) -> Artifact:
    """The artifact of that digest, of whatever stage. Raises UsageError."""
    if found := artifact_with(root, digest):
        return found
    raise UsageError(f"an input of what is shown is missing: {digest[:12]}", expected=f"an artifact below {root.url}")


Hit = tuple[float, str, int]  # cosine, shard, row or text


def _nearest(embeddings: Artifact, vector: NDArray[np.float32], most: int) -> tuple[list[Hit], list[Hit], int, int]:
    """The nearest images and captions, and how many of each there are."""
    images: list[Hit] = []
    texts: list[Hit] = []
    rows = captions = 0
    for shard in _searched(embeddings):
        name = embeddings.manifest.config.get("name", NAME)
        vectors = read_vectors(embeddings.store, shard, name)
        rows, captions = rows + len(vectors.images), captions + len(vectors.texts)
        images = _best(images, _hits(shard, vector, vectors.images, most), most)
        # The same words have the same vector, and are one answer.
        wordings, wording_of = ranking.distinct(vectors.texts)
        _, first = np.unique(wording_of, return_index=True)
        hits = [(cosine, of, int(first[place])) for cosine, of, place in _hits(shard, vector, wordings, most)]
        texts = _best(texts, hits, 4 * most)  # those of other shards may be the same words
    return images, texts, rows, captions


def _searched(embeddings: Artifact) -> list[str]:
    """The shards of images with their captions; of test sets neither the classes' prompts nor corrupted copies."""
    splits = embeddings.manifest.config.get("splits")  # of images that are no test set there are none
    return [
        shard
        for shard in vector_shards(embeddings)
        if splits is None or (not shard.endswith("/classes") and shard.split("/")[-2] in splits)
    ]


def _hits(shard: str, vector: NDArray[np.float32], candidates: NDArray[np.float32], most: int) -> list[Hit]:
    if not len(candidates):
        return []
    cosines, places = ranking.nearest(vector, candidates, most)
    return [(float(cosine), shard, int(place)) for cosine, place in zip(cosines[0], places[0], strict=True)]


def _best(known: list[Hit], hits: list[Hit], most: int) -> list[Hit]:
    return sorted([*known, *hits], key=lambda hit: -hit[0])[:most]


def _texts(best: Sequence[Hit], tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Found]:
    """The captions found, each wording once."""
    seen: set[str] = set()
    for cosine, shard, place in best:
        owners = [(row["uid"], text) for row in tables[shard] for text in row["texts"]]
        uid, text = owners[place]
        if text not in seen:
            seen.add(text)
            yield Found(cosine, uid, text)


class _Source:
    """Captions and images of embedded rows, read from a test set or from shards of images."""

    @classmethod
    def of(cls, root: Store, embeddings: Artifact) -> _Source:
        inputs = embeddings.manifest.identity["inputs"]
        if "dataset" in inputs:
            return _TestSets(embeddings, artifact_of(root, inputs["dataset"]))
        images = {name: artifact_of(root, digest) for name, digest in inputs.items() if name.startswith("images")}
        return _Pairs(embeddings, Images.of(images))

    def rows(self, shard: str) -> list[dict[str, Any]]:
        """The rows of a shard of vectors, each with ``uid`` and ``texts``."""
        raise NotImplementedError

    def images(self, wanted: Sequence[tuple[str, Mapping[str, Any]]]) -> list[bytes | None]:
        """The encoded images of rows of shards."""
        raise NotImplementedError


class _TestSets(_Source):
    def __init__(self, embeddings: Artifact, dataset: Artifact) -> None:
        self._embeddings, self._dataset = embeddings, dataset

    def rows(self, shard: str) -> list[dict[str, Any]]:
        with self._embeddings.store.open(f"data/{shard}.parquet") as file:
            rows: list[dict[str, Any]] = pq.read_table(file, columns=["uid", "texts"]).to_pylist()
        return rows

    def images(self, wanted: Sequence[tuple[str, Mapping[str, Any]]]) -> list[bytes | None]:
        found: dict[tuple[str, str], bytes] = {}
        for shard in {shard for shard, _ in wanted}:
            place, _, number = shard.rpartition("/")
            name, _, split = place.rpartition("/")
            keys = {row["uid"] for of, row in wanted if of == shard}
            for key, image in EvalSet.open(self._dataset, name, split).encoded(int(number)):
                if key in keys:
                    found[shard, key] = image
        return [found.get((shard, row["uid"])) for shard, row in wanted]


def test_images(
    embeddings: Artifact, dataset: Artifact, wanted: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[bytes | None]:
    """The encoded images of rows of shards of a test set's vectors, which have ``uid``; None where one is gone."""
    return _TestSets(embeddings, dataset).images(wanted)


class _Pairs(_Source):
    def __init__(self, embeddings: Artifact, images: Images) -> None:
        self._embeddings, self._images = embeddings, images
        self._column = embeddings.manifest.config["captions"]

    def rows(self, shard: str) -> list[dict[str, Any]]:
        with self._embeddings.store.open(f"data/{shard}.parquet") as file:
            rows: list[dict[str, Any]] = pq.read_table(file, columns=["uid", "key", "shard"]).to_pylist()
        table = image_table(self._images, int(shard), ["key", self._column])
        captions = dict(zip(table["key"].to_pylist(), table[self._column].to_pylist(), strict=True))
        for row in rows:
            row["texts"] = texts_of(captions.get(row["key"]))
        return rows

    def images(self, wanted: Sequence[tuple[str, Mapping[str, Any]]]) -> list[bytes | None]:
        return read_images(self._images, [{"shard": row["shard"], "key": row["key"]} for _, row in wanted])

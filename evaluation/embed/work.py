"""The work of embedding, in one process: decode a shard's images in threads, encode them and their captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evaluation.corruptions import Change
from evaluation.corruptions.pixels import corrupted
from evaluation.embed.config import NAME, Config, Part, folder
from evaluation.embed.long_captions import LongCaptions
from infra import metrics
from infra.encoder.bulk import encode_distinct, encode_loaded
from infra.formats.testset import Packed, prompts
from infra.formats.vectors import write_arrays, write_vectors
from infra.run.context import ShardOutput
from infra.run.manifest import Artifact, ShardRecord

if TYPE_CHECKING:
    from infra.encoder.open_clip import OpenClipEncoder

__all__ = ["class_vectors", "embed"]

Floats = NDArray[np.float32]


def embed(config: Config, model: Artifact | None, batch: Sequence[tuple[Part, ShardOutput]]) -> Iterator[ShardRecord]:
    """Write the vectors of each part of ``batch``."""
    limits = config.limits
    encoder = config.encoder(model, batch_size=config.batch_size, cpus=limits.cpus, gpus=limits.gpus)

    @lru_cache(maxsize=1)  # a shard's are the same under every change
    def encode(captions: tuple[str, ...]) -> tuple[Floats, NDArray[np.bool_]]:
        return encode_captions(encoder, captions, config.long_captions)

    for part, output in batch:
        if part.shard is None:
            examples = part.examples
            sentences = prompts(examples.classes, examples.templates)
            vectors = class_vectors(encoder, sentences, len(examples.classes))
            write_arrays(output, f"data/{examples.name}/classes.npz", {f"{NAME}_txt": vectors})
            facts: dict[str, Any] = {"prompts": len(sentences), "beyond_context": int(encoder.is_cut(sentences).sum())}
        else:
            threads = max(1, int(limits.cpus))
            facts = _embed_shard(encoder, part, part.shard, output, encode, threads=threads)
        yield output.commit(facts={**facts, "logit_scale": encoder.logit_scale})


def class_vectors(encoder: OpenClipEncoder, sentences: Sequence[str], classes: int) -> Floats:
    """A unit vector for each class, from its prompts side by side: (classes, d)."""
    return metrics.ensemble(encoder.encode_texts(sentences), classes)


def _embed_shard(
    encoder: OpenClipEncoder,
    part: Part,
    shard: int,
    output: ShardOutput,
    encode: Callable[[tuple[str, ...]], tuple[Floats, NDArray[np.bool_]]],
    *,
    threads: int,
) -> dict[str, Any]:
    load = partial(_load, encoder, part.change) if part.examples.pictured else _without_image
    vectors, loaded = encode_loaded(encoder, part.examples.packed(shard), load, threads=threads)
    samples = [sample for sample, _ in loaded]
    captions = [list(sample.captions) for sample in samples]
    texts, beyond = encode(tuple(text for given in captions for text in given))
    images = np.zeros((len(samples), texts.shape[1]), np.float32)
    if len(vectors):
        images[[pictured for _, pictured in loaded]] = vectors
    each = iter(beyond.tolist())
    of_images = [list(islice(each, len(given))) for given in captions]
    rows = pa.table(
        {
            "uid": pa.array([sample.key for sample in samples], pa.string()),
            "label": pa.array([sample.label for sample in samples], pa.int64()),
            "labels": pa.array([sample.labels for sample in samples], pa.list_(pa.int64())),
            "captions": pa.array(map(len, captions), pa.int32()),
            "texts": pa.array(captions, pa.list_(pa.string())),
            "beyond_context": pa.array(of_images, pa.list_(pa.bool_())),
            "metadata": pa.array([sample.metadata for sample in samples], pa.string()),
        }
    )
    write_vectors(output, f"{folder(part.examples.name, part.split)}/{shard:05d}", rows, images, texts, NAME)
    return {"images": len(samples), "captions": len(beyond), "beyond_context": int(beyond.sum())}


def encode_captions(
    encoder: OpenClipEncoder, captions: Sequence[str], long_captions: LongCaptions
) -> tuple[Floats, NDArray[np.bool_]]:
    """The unit vector of each caption, (m, d), and whether the model's context is too short for it, (m,).

    Equal captions are encoded once, and are equal to the last bit.
    """
    distinct = list(dict.fromkeys(captions))
    beyond = encoder.is_cut(distinct)
    parts = [
        long_captions.texts(text, lambda part: not encoder.is_cut([part])[0]) if is_long else [(text, 1.0)]
        for text, is_long in zip(distinct, beyond.tolist(), strict=True)
    ]
    vectors = iter(encode_distinct(encoder, [part for given in parts for part, _ in given]))
    rows = [_mean([(next(vectors), weight) for _, weight in given]) for given in parts]
    place = {text: number for number, text in enumerate(distinct)}
    order = [place[text] for text in captions]
    texts = np.stack(rows) if rows else encode_distinct(encoder, [])
    return texts[order], beyond[order]


def _mean(weighted: Sequence[tuple[Floats, float]]) -> Floats:
    """The unit vector of the weighted mean; the vector itself if it is alone."""
    if len(weighted) == 1:
        return weighted[0][0]
    total = np.sum([weight * vector.astype(np.float64) for vector, weight in weighted], axis=0)
    return np.asarray(total / np.linalg.norm(total), np.float32)


_Loaded = tuple[NDArray[np.uint8] | None, tuple[Packed, bool]]
"""The pixels of a sample; the sample without its bytes, and whether it has pixels."""


def _without_image(sample: Packed) -> _Loaded:
    return None, (sample, False)


def _load(encoder: OpenClipEncoder, change: Change | None, sample: Packed) -> _Loaded:
    """Decode a sample. Raises DataError: none may be left out."""
    if not sample.pictured:
        return _without_image(sample.without_image())
    image = sample.decoded()
    if change is not None:
        image = corrupted(image, sample.key, change)
    return encoder.prepare(image), (sample.without_image(), True)

"""The work of embedding, in one process: decode a shard's images in threads, encode them and their captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evaluation.embed.config import NAME, Config, folder
from infra import metrics
from infra.encoding import encode_distinct, encode_loaded
from infra.formats.testset import EvalSet, Packed, decode_image, prompts
from infra.formats.vectors import write_arrays, write_vectors
from infra.run.context import ShardOutput
from infra.run.manifest import Artifact, ShardRecord

if TYPE_CHECKING:
    from infra.open_clip_encoder import OpenClipEncoder

__all__ = ["class_vectors", "embed"]

Floats = NDArray[np.float32]


def embed(
    config: Config, model: Artifact | None, batch: Sequence[tuple[tuple[EvalSet, int | None], ShardOutput]]
) -> Iterator[ShardRecord]:
    """Write the vectors of each shard of ``batch``, or with shard None those of the set's classes."""
    limits = config.limits
    encoder = config.encoder(model, batch_size=config.batch_size, cpus=limits.cpus, gpus=limits.gpus)
    for (examples, shard), output in batch:
        if shard is None:
            sentences = prompts(examples.classes, examples.templates)
            vectors = class_vectors(encoder, sentences, len(examples.classes))
            write_arrays(output, f"data/{examples.name}/classes.npz", {f"{NAME}_txt": vectors})
            facts: dict[str, Any] = {"prompts": len(sentences)}
        else:
            facts = _embed_shard(encoder, examples, shard, output, threads=max(1, int(limits.cpus)))
        yield output.commit(facts={**facts, "logit_scale": encoder.logit_scale})


def class_vectors(encoder: OpenClipEncoder, sentences: Sequence[str], classes: int) -> Floats:
    """A unit vector for each class, from its prompts side by side: (classes, d)."""
    return metrics.ensemble(encoder.encode_texts(sentences), classes)


def _embed_shard(
    encoder: OpenClipEncoder, examples: EvalSet, shard: int, output: ShardOutput, *, threads: int
) -> dict[str, Any]:
    images, samples = encode_loaded(encoder, examples.packed(shard), partial(_load, encoder), threads=threads)
    captions = [list(sample.captions) for sample in samples]
    rows = pa.table(
        {
            "uid": pa.array([sample.key for sample in samples], pa.string()),
            "label": pa.array([sample.label for sample in samples], pa.int64()),
            "labels": pa.array([sample.labels for sample in samples], pa.list_(pa.int64())),
            "captions": pa.array(map(len, captions), pa.int32()),
            "texts": pa.array(captions, pa.list_(pa.string())),
            "metadata": pa.array([sample.metadata for sample in samples], pa.string()),
        }
    )
    texts = encode_distinct(encoder, [text for given in captions for text in given])
    write_vectors(output, f"{folder(examples.name, examples.split)}/{shard:05d}", rows, images, texts, NAME)
    return {"images": len(samples), "captions": sum(map(len, captions))}


def _load(encoder: OpenClipEncoder, sample: Packed) -> tuple[NDArray[np.uint8], Packed]:
    """The pixels of a sample, and the sample without its bytes. Raises DataError: none may be left out."""
    return encoder.prepare(decode_image(sample.image, sample.key)), sample.without_image()

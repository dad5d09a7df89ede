"""Decontaminate: drop images that are in an evaluation set, so that a score is of what was learnt, not remembered.

The test images are hashed, and encoded if there are embeddings; their keys, thumbnails and vectors are what each task
holds, while the rows stream past. So memory is that of the test sets, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from infra.cluster import run_batches, run_shards
from infra.errors import DataError
from infra.formats.shards import shard_name
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate.decontaminate.config import Config
from pipelines.layout import Images, counted_shards

__all__ = ["run"]

_ROWS = 20_000  # of a task, which loads the test images once


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``images``, or those that ``selection`` keeps -> a selection without those that are near a test image.

    Dropped rows have ``nearest_test`` ({set}/{split}/{key}) and ``test_distance``, in bits, if their keys are near.
    With ``embeddings`` every row has ``test_cosine``, the largest with a test image.
    """
    from pipelines.curate.decontaminate import figures, index, work
    from pipelines.curate.joining import joined_inputs

    _check_signatures(config, inputs)
    tests = index.test_shards(inputs)
    names = [f"test-{number:05d}" for number in range(len(tests))]
    step = partial(index.write_index, config, inputs.get("model") if "embeddings" in inputs else None)
    indexed = run_shards(context, list(zip(names, tests, strict=True)), step, config.limits)

    shards = counted_shards(inputs)
    specs = [(shard_name(shard), (shard, path)) for shard, path, _ in shards]
    size = max(1, _ROWS * len(specs) // max(sum(rows for *_, rows in shards), 1))
    embeddings = inputs.keys() & {"embeddings"}
    with joined_inputs(context, config.limits, inputs, embeddings, config.embedding) as found:
        look = partial(work.look_through, config, found, context.store, tests)
        records = run_batches(context, specs, look, config.limits, size=size)
    context.store.delete(index.FOLDER)

    figures.draw(context, Images.of(inputs), tests, records)
    facts = {
        "test_images": sum(record.facts["images"] for record in indexed),
        "capped": sum(record.facts["capped"] for record in records),
        "hashed": sum(record.facts["hashed"] for record in records),
        "without_vector": sum(record.facts["without_vector"] for record in records),
    }
    total = records.funnel("images")
    return context.finish(records, funnel=total, facts=facts)


def _check_signatures(config: Config, inputs: Mapping[str, Artifact]) -> None:
    """Raise DataError if the signatures of the rows are others than those of the test images would be."""
    for name in ("crops", "mirrored") if "signatures" in inputs else ():
        theirs, ours = inputs["signatures"].manifest.config.get(name), getattr(config, name)
        if theirs != ours:
            raise DataError(
                f"the signatures were made with dedup.{name}={theirs}",
                expected=f"decontaminate.{name}={ours}",
                fix="give both stages the same value, or leave the input 'signatures' out",
            )

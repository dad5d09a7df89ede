"""Embed: images and captions as vectors of a contrastive model, a shard of vectors for each shard of rows.

A task takes several shards, so that a model is loaded for many images; each shard is committed by itself. Decoding goes
on in threads, and the next shard is read, while the model works.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from infra.cluster import TENSORS, run_batches, slots
from infra.formats.shards import shard_name
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact, Manifest, ShardRecord
from pipelines.curate.embed.config import Config
from pipelines.layout import Images, input_shards

__all__ = ["run"]

_MOST = 64  # shards of a task


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``images``, or those rows of them that ``selection`` keeps -> vectors of them and of their captions.

    The rows whose image cannot be read are in ``data/dropped-{shard}.parquet``, each with its reason.
    """
    selection = inputs.get("selection")
    config.check_model(inputs.get("model"))
    limits = replace(config.limits, environment={**TENSORS, **config.limits.environment})
    work = partial(_work, config, Images.of(inputs), selection, inputs.get("model"))
    specs = [(shard_name(shard), (shard, path)) for shard, path in input_shards(inputs)]
    size = min(_MOST, -(-len(specs) // (4 * slots(limits)))) or 1
    records = run_batches(context, specs, work, limits, size=size)
    total = records.funnel("images")
    captions = sum(record.facts["captions"] for record in records)
    lists = any(record.facts["lists"] for record in records)
    return context.finish(records, funnel=total, facts={"captions": captions, "lists": lists})


def _work(
    config: Config,
    images: Images,
    selection: Artifact | None,
    model: Artifact | None,
    batch: Sequence[tuple[Any, ShardOutput]],
) -> Iterator[ShardRecord]:
    from pipelines.curate.embed.work import embed_shards  # loads torch

    return embed_shards(config, images, selection.store if selection else None, model, batch)

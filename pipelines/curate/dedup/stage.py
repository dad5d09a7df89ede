"""Dedup: keep one copy of each image, comparing bytes first and content next, across the whole selection.

Files that a host serves under many names are placeholders: none of them stays. Of each other group the largest original
stays, the first of equals; every other row names the one it duplicates. Hashing runs shard by shard on the cluster; the
comparison of all with all needs some 900 bytes an image in one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from infra.cluster import run_shards
from infra.formats.shards import shard_name
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate.dedup.config import Config
from pipelines.layout import Images, selection_shards

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``selection`` of ``images`` -> a selection with a column ``phash``; dropped rows with ``duplicate_of``, a uid."""
    from pipelines.curate.dedup.duplicates import drop_duplicates, hash_shard

    images, selection = Images.of(inputs), inputs["selection"]
    shards = selection_shards(selection)
    specs = [(shard_name(shard), (shard, path)) for shard, path in shards]
    records = run_shards(context, specs, partial(hash_shard, images, selection.store), config.limits)
    total = drop_duplicates(config, images, selection.store, shards, context)
    return context.finish(records, funnel=total)

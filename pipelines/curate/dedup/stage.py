"""Dedup: keep one copy of each image, comparing bytes first and content next, across the whole selection.

Files that a host serves under many names are placeholders: none of them stays. Of each other group one row stays, by
default the largest original; every other one names it, and leaves it its captions. Of images that are alike pair by
pair those stay that are like none before them that stays (:mod:`pipelines.curate.dedup.leaders`).

Hashing runs shard by shard; what equals what is found over the exchange (:mod:`infra.exchange`), in parts of some
hundred thousand rows each, so that neither memory nor time depends on more than a share of the rows, and a killed stage
goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from infra.cluster import run_shards
from infra.formats.shards import shard_name
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate.dedup.config import Config
from pipelines.layout import Images, counted_shards, funnel

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``selection`` of ``images`` -> a selection with the columns ``phash``, ``cluster`` and ``captions``; dropped rows
    with ``duplicate_of``, a uid."""
    from pipelines.curate.dedup import duplicates, figures, rows

    images, selection = Images.of(inputs), inputs["selection"]
    shards = counted_shards(inputs)
    specs = [(shard_name(shard), (shard, path)) for shard, path, _ in shards]
    work = partial(rows.hash_shard, config, images, selection.store)
    signatures = run_shards(context, specs, work, config.limits)
    if not shards:
        return context.finish(signatures, funnel=funnel("images", []))
    found, facts = duplicates.drop_duplicates(config, selection.store, shards, context)
    figures.draw_figures(context, images, selection.store, shards, found, drop=config.drop)
    return context.finish(signatures.plus(found), facts=facts)

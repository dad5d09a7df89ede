"""Filter: keep the images and captions worth training on, by a list of named rules.

The first rule in order that a row fails is its reason, so the counts add up and each can be questioned: dropped rows
are stored next to the kept ones, and every reason has a gallery.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from infra.cluster import run_shards
from infra.formats.shards import shard_name
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate.filter.config import Config
from pipelines.layout import Images, downloads, funnel, image_shards, selection_shards

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``images``, or those rows of them that ``selection`` keeps -> a selection."""
    from pipelines.curate import gallery
    from pipelines.curate.filter.judge import filter_shard

    images, selection = Images.of(inputs), inputs.get("selection")
    shards = selection_shards(selection) if selection else image_shards(*downloads(inputs))
    work = partial(filter_shard, config.rules, images, selection.store if selection else None)
    records = run_shards(context, [(shard_name(shard), (shard, path)) for shard, path in shards], work, config.limits)
    gallery.of_selection(context, images, records)
    total = sum((record.funnel for record in records if record.funnel), funnel("images", []))
    return context.finish(records, funnel=total)

"""Reshard: shards that exist, of any make, as new ones: equal, globally shuffled, all samples or those of a subset.

Samples are copied with all their members. What is known of a sample is in its JSON, if it has one: ``uid``, by which it
is shuffled and found in a subset, and ``cluster``, whose samples are on the same side. The two passes over the images
are those of the shard stage; with a subset there is one before them, for the ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate.reshard.config import Config

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``shards`` -> ``data/train`` and ``data/holdout``, as the shard stage writes them."""
    from pipelines.curate.reshard import listed, sources
    from pipelines.curate.shard import work

    lots, total = sources.lots_of(config.given("shards", inputs))
    subset = inputs.get("subset")
    before = partial(listed.join_subset, subset, lots, total) if subset else None
    read = partial(sources.samples_of, listed.TIMES if subset else None)
    return work.write_all(config, lots, read, total, context, before)

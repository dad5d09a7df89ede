"""Reshard: shards that exist, of any make, as new ones: equal, globally shuffled, all samples or those of a subset.

Samples are copied with all their members. What is known of a sample is in its JSON, if it has one: ``uid``, by which it
is shuffled and found in a subset, and ``cluster``, whose samples are on the same side. The two passes over the images
are those of the shard stage.
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
    from pipelines.curate.reshard import sources
    from pipelines.curate.shard import work

    lots, total = sources.lots_of(config.given("shards", inputs))
    return work.write_all(config, lots, partial(sources.samples_of, inputs.get("subset")), total, context)

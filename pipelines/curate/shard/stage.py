"""Shard: the last step of the data. One global shuffle, standard training shards, and a holdout that shares no image.

``data/train/{n}.tar`` with ``sizes.json`` is what open_clip, webdataset and img2dataset users expect;
``data/holdout`` is a retrieval test set in CLIP_benchmark's layout. Image bytes are copied unchanged.

Two passes over the images, each front to back, however many there are: the first sorts the samples of some neighbouring
tars by their place in the new order, the second merges what belongs to a new shard. In between, references to the
samples are numbered over the exchange (:mod:`infra.exchange`), so that every shard but the last is full.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate.shard.config import Config
from pipelines.layout import Images, row_count

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``selection`` of ``images`` -> ``data/train`` and ``data/holdout``."""
    from pipelines.curate.shard import sources, work

    selection = inputs["selection"]
    read = partial(sources.selected_images, Images.of(inputs), selection.store)
    return work.write_all(config, sources.lots_of(inputs, selection), read, row_count(selection), context)

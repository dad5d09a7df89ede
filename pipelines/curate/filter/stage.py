"""Which images and captions are worth training on: a list of named rules, and for each row dropped the rule that did.

The first rule in order that a row fails is its reason, so the counts add up and a curator can argue with each of them:
dropped rows are kept for audit beside the kept ones, and every reason has a gallery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from infra.cluster import Limits, run_shards
from infra.config import Input, Runtime, StageConfig
from infra.formats.shards import shard_name
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact, Manifest, ShardRecord
from pipelines.curate.filter.rules import BASIC, Rule
from pipelines.tables import Images, downloads, image_shards, selected, write_selection

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Config", "judge", "run"]


class Config(StageConfig):
    inputs: ClassVar[Mapping[str, Input]] = {
        "images": Input("images", repeated=True),
    }
    produces: ClassVar[tuple[str, ...]] = ("selection",)

    rules: tuple[Rule, ...] = Field(BASIC, description="what a row must pass, in the order it is asked")
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``images`` and retries of them -> a selection."""
    from pipelines.curate import gallery

    images = Images.of(inputs)
    shards = [(shard_name(shard), shard) for shard, _ in image_shards(*downloads(inputs))]
    records = run_shards(context, shards, partial(_work, config, images), config.limits)
    gallery.of_selection(context, images, records)
    return context.finish(records)


def _work(config: Config, images: Images, shard: int, output: ShardOutput) -> ShardRecord:
    rows = selected(images.table(shard), shard)
    return output.commit(write_selection(output, shard, rows, judge(rows, config.rules)))


def judge(rows: pa.Table, rules: Sequence[Rule]) -> list[str | None]:
    """For each row the reason of the first rule it fails, or None. A rule is asked only about rows still in."""
    import numpy as np

    reasons: list[str | None] = [None] * rows.num_rows
    places = np.arange(rows.num_rows)
    for rule in rules:
        keeps = np.asarray(rule.keeps(rows.take(places)), dtype=bool)
        for place in places[~keeps]:
            reasons[place] = rule.reason
        places = places[keeps]
    return reasons

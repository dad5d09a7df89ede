"""Score: columns of numbers for images and captions, computed of embeddings.

Scores that depend on other rows are found in two passes: the first collects what must be known of all rows, merged to
something small, the second scores shard by shard. Both are shards of the ledger, so a killed stage goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from infra.cluster import run_batches, run_shards
from infra.formats.shards import shard_name
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate.score.config import Config
from pipelines.layout import Images, input_shards

__all__ = ["run"]

_ROWS = 50_000  # of a task, whose vectors it holds at once


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``images``, or those rows of them that ``selection`` keeps -> a selection with a column for each score.

    A column is null where there is no caption, and a list where captions are. The mean of each is a metric.
    """
    from pipelines.curate.joining import joined_inputs
    from pipelines.curate.score import figures, passes

    # First pass: what must be known of other rows.
    firsts = [score for score in config.scores if score.over]
    collecting = [(name, spec) for score in firsts for name, spec in passes.lots(score, inputs)]
    merging = [(f"known-{score.name}", score) for score in firsts]
    if firsts:
        lots = [name for name, _ in collecting]
        run_shards(context, collecting, partial(passes.collect, config, inputs), config.limits)
        run_shards(context, merging, partial(passes.merge, context.store, lots), config.limits)

    # Second pass: the scores.
    selection = inputs.get("selection")
    specs = [(shard_name(shard), (shard, path)) for shard, path in input_shards(inputs)]
    size = max(1, _ROWS // max(passes.most_rows(selection, inputs), 1))
    names = dict.fromkeys(score.embeddings for score in config.scores)
    with joined_inputs(context, config.limits, inputs, names, config.embedding) as found:
        work = partial(passes.score_shards, config, found, context.store)
        records = run_batches(context, specs, work, config.limits, size=size)
    passes.clean(context, [name for name, _ in (*collecting, *merging)])

    figures.of_scores(context, Images.of(inputs), config.scores, records)
    total = records.funnel("images")
    return context.finish(records, funnel=total, metrics=passes.means(config.scores, records))

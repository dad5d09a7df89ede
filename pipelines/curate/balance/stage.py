"""Balance: flatten the distribution of caption topics by MetaCLIP's rule (Xu et al. 2023, algorithm 1).

The web shows a few things millions of times and most things rarely. Each caption is matched against a list of entries
(words and phrases); an entry with more than ``t`` captions keeps each with probability ``t / count``, a rarer one keeps
all; a caption is kept if any entry it holds keeps it, and dropped if it holds none.

Entries are the user's, or those words and phrases of the captions themselves that are frequent enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from infra.cluster import run_shards
from infra.formats.shards import shard_name
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate.balance.config import Config
from pipelines.layout import row_count, selection_shards

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``selection`` -> a selection; dropped rows have the ``keep_probability`` they had."""
    from pipelines.curate.balance.entries import list_entries
    from pipelines.curate.balance.matching import ENTRIES, match_shard, read_matches
    from pipelines.curate.balance.sampling import draw_rows

    selection = inputs["selection"]
    shards = selection_shards(selection)
    entries = list_entries(config, inputs.get("metadata"), selection.store, shards)
    context.output.write(ENTRIES, "".join(f"{entry}\n" for entry in entries).encode(), rows=len(entries))
    specs = [(shard_name(shard), (shard, path)) for shard, path in shards]
    work = partial(match_shard, selection.store, context.store)
    records = run_shards(context, specs, work, config.limits, rows=row_count(selection))
    matches = [read_matches(context.store, record.shard) for record in records]
    total, facts = draw_rows(config, selection.store, shards, matches, len(entries), context)
    return context.finish(records, funnel=total, facts=facts)

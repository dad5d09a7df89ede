"""Balance: flatten the distribution of caption topics by MetaCLIP's rule (Xu et al. 2023, algorithm 1).

The web shows a few things millions of times and most things rarely. Each caption is matched against a list of entries
(words and phrases); an entry with more than ``t`` captions keeps each with probability ``t / count``, a rarer one keeps
all; a caption is kept if any entry it holds keeps it.

Entries are the user's, and a caption that holds none of them is dropped; or they are those words and phrases of the
captions themselves that are frequent enough, and a caption that holds none is rarer than all of them, and stays.
"""

from __future__ import annotations

from collections.abc import Mapping

from infra.formats.shards import shard_name
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate.balance.config import Config
from pipelines.layout import row_count, selection_shards

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``selection`` -> a selection; dropped rows have the ``keep_probability`` they had.

    Two passes over the captions on the cluster: one matches and counts, one draws. The driver holds the entries.
    """
    from pipelines.curate.balance import work

    selection = inputs["selection"]
    specs = [(shard_name(shard), (shard, path)) for shard, path in selection_shards(selection)]
    if work.DONE not in context.ledger.read([work.DONE]):
        work.balance(config, inputs.get("metadata"), selection, specs, context)
    (entries,) = context.ledger.read([work.DONE]).values()
    drawn = context.ledger.tally([name for name, _ in specs]).records()
    facts = entries.facts
    context.store.delete(work.SCRATCH)
    if facts["entries_found"]:
        rows = row_count(selection)
        context.figure("entries", work.figure_of(context.store, config.t, facts["expected"], rows))
    return context.finish(drawn.plus([entries]), funnel=drawn.funnel("images"), facts=facts)

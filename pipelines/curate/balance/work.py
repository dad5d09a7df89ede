"""The steps of balancing: entries, matches, counts, draws, and the counts of what is left."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from infra.cluster import run_shards
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact
from infra.store import Store
from pipelines.curate.balance.config import Config
from pipelines.curate.balance.counting import SCRATCH, add_up, read_counts
from pipelines.curate.balance.entries import count_shard, entries_of, given_entries
from pipelines.curate.balance.matching import ENTRIES, match_shard
from pipelines.curate.balance.sampling import Draw, draw_shard, figure
from pipelines.layout import row_count
from pipelines.tables import read_table

__all__ = ["DONE", "SCRATCH", "balance", "figure_of"]

DONE = "entries"
"""Name of the record that is committed last. Behind it, everything in SCRATCH may be gone."""

_COUNTS = "data/entries.parquet"
_Specs = Sequence[tuple[str, tuple[int, str]]]


def balance(config: Config, metadata: Artifact | None, selection: Artifact, specs: _Specs, context: Context) -> None:
    """Write the balanced selection shard by shard, the entries, and how many captions they had before and after."""
    own, limits, rows = context.store, config.limits, row_count(selection)
    done = ShardOutput(own, DONE)

    # The entries: given, or counted.
    given = given_entries(config, metadata)
    entries = _frequent(config, selection, specs, context) if given is None else given
    done.write(ENTRIES, "".join(f"{entry}\n" for entry in entries).encode(), rows=len(entries))

    # First pass: the entries in each caption, and the captions of each entry.
    matched = [(f"before-{name}", spec) for name, spec in specs]
    run_shards(context, matched, partial(match_shard, selection.store, own), limits, rows=rows)
    totals = add_up(context, [name for name, _ in matched], "before", limits) if specs else ""

    # Second pass: the draws.
    draw = Draw(config.t, config.seed, len(entries), totals, keep_unmatched=given is None)
    drawn = run_shards(context, specs, partial(draw_shard, draw, selection.store, own), limits, rows=rows)
    left = add_up(context, [f"after-{name}" for name, _ in specs], "after", limits) if specs else ""

    # How many captions each entry had before, and has now.
    counts = [np.zeros(len(entries), np.int64)] * 2
    if specs:
        counts = [read_counts(read_table(own, path), len(entries)) for path in (totals, left)]
        table = {"entry": pa.array(entries, pa.string()), "before": counts[0], "after": counts[1]}
        done.write_table(_COUNTS, pa.table(table))
    facts = {
        "entries": len(entries),
        "entries_found": int((counts[0] > 0).sum()),
        "entries_over_t": int((counts[0] > config.t).sum()),
        "expected": round(sum(record.facts["expected"] for record in drawn), 1),
    }
    done.commit(facts=facts)


def _frequent(config: Config, selection: Artifact, specs: _Specs, context: Context) -> list[str]:
    """The frequent words and phrases of the captions, counted on the cluster."""
    if not specs:
        return []
    words = [(f"words-{name}", spec) for name, spec in specs]
    run_shards(context, words, partial(count_shard, selection.store), config.limits, rows=row_count(selection))
    path = add_up(context, [name for name, _ in words], "words", config.limits)
    return entries_of(read_table(context.store, path), config.min_count, config.min_pmi)


def figure_of(own: Store, t: int) -> bytes:
    """Captions per entry before and after, as PNG."""
    counts = read_table(own, _COUNTS)
    return figure(counts["before"].to_numpy(), counts["after"].to_numpy(), t)

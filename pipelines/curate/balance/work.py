"""The steps of balancing: entries, matches, counts, draws, and the counts of what is left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.cluster import run_shards
from infra.run.context import Context, Output, ShardOutput
from infra.run.manifest import Artifact
from infra.store import Store
from pipelines.curate.balance.config import Config
from pipelines.curate.balance.counting import NO_COUNTS, SCRATCH, Totals, add_up
from pipelines.curate.balance.entries import count_shard, entries_of, given_entries
from pipelines.curate.balance.matching import ENTRIES, Entries, match_shard
from pipelines.curate.balance.sampling import Draw, draw_shard, figure, limits_by_language
from pipelines.curate.captions import ALL
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
    Output(own).write(ENTRIES, json.dumps(entries, ensure_ascii=False).encode())

    # First pass: the entries in each caption, and the captions of each entry.
    matched = [(f"before-{name}", spec) for name, spec in specs]
    run_shards(context, matched, partial(match_shard, selection.store, own, config.by_language), limits, rows=rows)
    before = add_up(context, [name for name, _ in matched], "before", limits) if specs else ""

    # Second pass: the draws.
    totals = Totals(read_table(own, before) if specs else NO_COUNTS)
    by_language = limits_by_language(totals, config.t, config.reference) if config.by_language else {ALL: config.t}
    draw = Draw(config.seed, before, by_language, keep_unmatched=given is None)
    drawn = run_shards(context, specs, partial(draw_shard, draw, selection.store, own), limits, rows=rows)
    after = add_up(context, [f"after-{name}" for name, _ in specs], "after", limits) if specs else ""

    # How many captions each entry had before, and has now.
    left = Totals(read_table(own, after) if specs else NO_COUNTS)
    if specs:
        done.write_table(_COUNTS, _table(entries, totals, left))
    over = totals.captions > np.array([by_language[name] for name in totals.languages], np.int64)[totals.codes]
    facts = {
        "entries": sum(map(len, entries.values())),
        "entries_found": len(totals.captions),
        "entries_over_t": int(over.sum()),
        "expected": round(sum(record.facts["expected"] for record in drawn), 1),
    }
    if config.by_language:
        facts["t_by_language"] = by_language
    done.commit(facts=facts)


def _table(entries: Entries, before: Totals, after: Totals) -> pa.Table:
    """The captions of each entry before and after: of every entry, or, of those by language, of every one found."""
    names = [entry for language in sorted(entries) for entry in entries[language]]
    if entries.keys() == {ALL} and before.languages in ([], [ALL]):
        numbers = np.arange(len(names))
        codes = np.zeros(len(names), np.int64)
        columns: dict[str, Any] = {}
    else:
        numbers, codes = before.entries, before.codes
        columns = {"language": pa.array(before.languages, pa.string()).take(pa.array(codes))}
    columns["entry"] = pa.array(names, pa.string()).take(pa.array(numbers))
    columns["before"] = before.of(codes, numbers)
    columns["after"] = after.of(after.codes_of(columns["language"]) if "language" in columns else codes, numbers)
    return pa.table(columns)


def _frequent(config: Config, selection: Artifact, specs: _Specs, context: Context) -> Entries:
    """The frequent words and phrases of the captions, of each language if they are to be balanced by language."""
    if not specs:
        return {}
    words = [(f"words-{name}", spec) for name, spec in specs]
    work = partial(count_shard, selection.store, config.by_language)
    run_shards(context, words, work, config.limits, rows=row_count(selection))
    path = add_up(context, [name for name, _ in words], "words", config.limits)
    counts = read_table(context.store, path)
    return {
        language: entries_of(counts.filter(pc.equal(counts["language"], language)), config.min_count, config.min_pmi)
        for language in counts["language"].unique().to_pylist()
    }


def figure_of(own: Store, t: int) -> bytes:
    """Captions per entry before and after, as PNG."""
    counts = read_table(own, _COUNTS)
    return figure(counts["before"].to_numpy(), counts["after"].to_numpy(), t)

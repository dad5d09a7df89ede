"""The steps of balancing: entries, matches, counts, draws, and the counts of what is left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from infra.cluster import run_shards
from infra.events import Log
from infra.run.context import Context, Output, ShardOutput
from infra.run.manifest import Artifact
from infra.store import Store
from pipelines.curate import entries as counting
from pipelines.curate.balance.config import Config
from pipelines.curate.balance.counting import NO_COUNTS, SCRATCH, Totals, add_up
from pipelines.curate.balance.entries import given_entries
from pipelines.curate.balance.matching import ENTRIES, Entries, match_shard
from pipelines.curate.balance.sampling import Draw, draw_shard, figure, limits_by_language
from pipelines.curate.captions import ALL
from pipelines.curate.entries.corpus import lots_of_selection
from pipelines.curate.entries.work import count_entries, with_phrases
from pipelines.layout import row_count
from pipelines.tables import read_table

__all__ = ["DONE", "SCRATCH", "balance", "figure_of"]

DONE = "entries"
"""Name of the record that is committed last. Behind it, everything in SCRATCH may be gone."""

_OTHERS = (0.25, 0.5, 2, 4)  # limits, over that of the draw, whose sizes are told as well
_COUNTS = "data/entries.parquet"
_Specs = Sequence[tuple[str, tuple[int, str]]]


def balance(config: Config, metadata: Artifact | None, selection: Artifact, specs: _Specs, context: Context) -> None:
    """Write the balanced selection shard by shard, the entries, and how many captions they had before and after."""
    own, limits, rows = context.store, config.limits, row_count(selection)
    done = ShardOutput(own, DONE)

    # The entries: given, or counted.
    given = given_entries(config, metadata)
    entries = given if given is not None else _frequent(config, selection, context) if specs else {}
    Output(own).write(ENTRIES, json.dumps(entries, ensure_ascii=False).encode())

    # First pass: the entries in each caption, and the captions of each entry.
    matched = [(f"before-{name}", spec) for name, spec in specs]
    run_shards(context, matched, partial(match_shard, selection.store, own, config.by_language), limits)
    before = add_up(context, [name for name, _ in matched], "before", limits) if specs else ""

    # Second pass: the draws, and what other limits would have left.
    totals = Totals(read_table(own, before) if specs else NO_COUNTS)
    limits_of = {t: _limits(config, totals, t) for t in sorted({config.t, *(int(config.t * f) or 1 for f in _OTHERS)})}
    by_language = limits_of[config.t]
    draw = Draw(config.seed, before, config.t, limits_of, config.drop, _keeps_unmatched(config, given, metadata))
    drawn = run_shards(context, specs, partial(draw_shard, draw, selection.store, own), limits)
    after = add_up(context, [f"after-{name}" for name, _ in specs], "after", limits) if specs else ""

    # How many captions each entry had before, and has now.
    left = Totals(read_table(own, after) if specs else NO_COUNTS)
    if specs:
        done.write_table(_COUNTS, _table(entries, totals, left))
    over = totals.captions > np.array([by_language[name] for name in totals.languages], np.int64)[totals.codes]
    expected = {str(t): round(sum(record.facts["expected"][str(t)] for record in drawn), 1) for t in limits_of}
    facts = {
        "entries": sum(map(len, entries.values())),
        "entries_found": len(totals.captions),
        "entries_over_t": int(over.sum()),
        "expected": expected[str(config.t)],
        "expected_by_t": expected,
    }
    message = f"of {rows:,} rows {facts['expected']:,.0f} are expected to stay at t={config.t:,}; by t: {expected}"
    context.send(Log(stage=context.stage, level="INFO", logger=__name__, message=message))
    if config.by_language:
        facts["t_by_language"] = by_language
    done.commit(facts=facts)


def _limits(config: Config, totals: Totals, t: int) -> dict[str, int]:
    """The limit of each language."""
    return limits_by_language(totals, t, config.reference) if config.by_language else {ALL: t}


def _keeps_unmatched(config: Config, given: Entries | None, metadata: Artifact | None) -> bool:
    """Return whether rows without an entry are kept; by default, if the entries come from captions."""
    if config.keep_unmatched is not None:
        return config.keep_unmatched
    return given is None or bool(metadata and metadata.manifest.facts.get("of_captions"))


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


def _frequent(config: Config, selection: Artifact, context: Context) -> Entries:
    """The frequent words and phrases of the captions, of each language if they are to be balanced by language."""
    shared = {name: getattr(config, name) for name in ("min_count", "min_pmi", "by_language", "limits")}
    lots, rows = lots_of_selection(selection)
    counted, _ = count_entries(counting.Config(**shared), lots, rows, context, f"{SCRATCH}/entries.parquet")
    return with_phrases(counted, (), config.by_language)


def figure_of(own: Store, t: int, expected: float, rows: int) -> bytes:
    """Captions per entry before and after, as PNG; of ``rows`` the draw was expected to keep ``expected``."""
    counts = read_table(own, _COUNTS)
    title = f"Captions per entry; of {rows:,} rows {expected:,.0f} expected to stay"
    return figure(counts["before"].to_numpy(), counts["after"].to_numpy(), t, title)

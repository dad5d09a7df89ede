"""The frontier: every URL a crawl knows, on disk, partitioned by host.

A crawl knows far more URLs than it fetches, so they live in Parquet, not in memory. A URL's host decides its partition;
a partition is processed by one task at a time, independently of the others. Each round writes new tables (a
*generation*), so a killed task finds its inputs untouched (see pipelines.crawl.frontier_tables).

:func:`generate` selects the URLs of a round, :func:`update` writes the next generation, :func:`unvisited` accounts for
the rest. All are pure functions of files: same tables, same bytes. The driver holds counts only, from which
``pipelines.crawl.rounds.allot`` computes each partition's part of a round.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.run.context import ShardOutput
from infra.run.manifest import Funnel, ShardRecord
from infra.schema import Drop
from infra.store import Store
from pipelines.crawl.config import UNIT, Config
from pipelines.crawl.frontier_tables import (
    DUE,
    HOSTS,
    OUTCOME,
    PATTERNS,
    ROWS,
    SEEN,
    UNVISITED,
    URL,
    URLS,
    path_of,
    read_found,
    read_state,
    writer,
)
from pipelines.crawl.traps import Fingerprint, Pattern
from pipelines.web.urls import shown

__all__ = ["Generate", "Unvisited", "Update", "deal", "generate", "unvisited", "update"]


# --- update: a generation, its fetched URLs and found links -> the next generation ------------------------------------


@dataclass(frozen=True)
class Update:
    """``found``: files of links found in this round, of all partitions; ``shards``: those that fetched this partition's
    due URLs, in the order of their row groups."""

    generation: int  # read; the next one is written
    partition: int
    found: tuple[str, ...]
    shards: tuple[str, ...]
    config: Config


def update(spec: Update, output: ShardOutput) -> ShardRecord:
    """Write the next generation.

    Facts: ``ready``, by depth the number of URLs a round may fetch; ``rows``, the number of URLs in the partition.
    """
    urls, pages, patterns = (
        read_state(output.store, spec.generation, spec.partition, name) for name in ("urls", "hosts", "patterns")
    )
    # Account for what was fetched: pages per host, statistics per pattern.
    fetched = _fetched(output.store, spec)
    urls = urls.filter(pa.array(~np.isin(np.arange(urls.num_rows), fetched["row"].to_numpy())))
    kept = fetched.filter(pc.is_null(fetched["reason"]))
    pages = _count_pages(pages, kept)
    patterns = _update_patterns(patterns, kept, spec.config.traps.max_alike)
    # Append new links behind the URLs that wait already, and give up those of trap patterns.
    found = read_found(output.store, spec.found, spec.partition)
    fresh = found.filter(pa.array(_unseen(output, spec, found["key"])))
    urls = pa.concat_tables([urls, fresh.select(URLS.names)])
    urls = urls.take(pa.array(np.argsort(urls["depth"].to_numpy(), kind="stable")))  # earlier ones first
    urls = _mark_traps(urls, patterns)
    for name, table in (("urls", urls), ("hosts", pages), ("patterns", patterns)):
        with output.open(path_of(spec.generation + 1, spec.partition, name)) as sink:
            pq.write_table(table, sink, compression="zstd", row_group_size=ROWS)
    depths, counts = np.unique(urls["depth"].to_numpy()[_ready(urls, pages, spec.config)], return_counts=True)
    ready = dict(zip(map(str, depths.tolist()), counts.tolist(), strict=True))
    return output.commit(facts={"ready": ready, "rows": urls.num_rows})


def _state(spec: Update | Generate | Unvisited, output: ShardOutput, *names: str) -> list[pa.Table]:
    return [read_state(output.store, spec.generation, spec.partition, name) for name in names]


def _fetched(store: Store, spec: Update) -> pa.Table:
    """Read the due rows of this partition with their outcomes."""
    parts = [pa.schema([*DUE, *OUTCOME]).empty_table()]
    for group, shard in enumerate(spec.shards):
        with store.open(path_of(spec.generation, spec.partition, "due")) as source:
            part = pq.ParquetFile(source).read_row_group(group)
        with store.open(f"data/{shard}.urls.parquet") as source:
            outcome = pq.read_table(source, columns=OUTCOME.names)
        for name in OUTCOME.names:
            part = part.append_column(name, outcome[name])
        parts.append(part)
    return pa.concat_tables(parts)


def _unseen(output: ShardOutput, spec: Update, keys: pa.ChunkedArray) -> np.ndarray:
    """Return which of the distinct ``keys`` are new, and write the next generation's hashes."""
    fresh = np.ones(len(keys), bool)
    sought = keys.combine_chunks()
    with output.open(path_of(spec.generation + 1, spec.partition, "seen")) as sink, writer(sink, SEEN) as rows:
        if spec.generation:
            with output.store.open(path_of(spec.generation, spec.partition, "seen")) as source:
                for batch in pq.ParquetFile(source).iter_batches(ROWS):
                    hits = pc.index_in(batch["key"], value_set=sought)
                    fresh[hits.drop_null().to_numpy()] = False
                    rows.write_batch(batch)
        rows.write_table(pa.table([sought.filter(pa.array(fresh))], SEEN))
    return fresh


def _count_pages(pages: pa.Table, kept: pa.Table) -> pa.Table:
    """Add the pages kept in this round to the counts per host, ordered by host."""
    hosts, back = np.unique(np.r_[pages["host"].to_numpy(), kept["host"].to_numpy()], return_inverse=True)
    counts = np.zeros(len(hosts), np.int64)
    np.add.at(counts, back, np.r_[pages["pages"].to_numpy(), np.ones(kept.num_rows, np.int64)])
    return pa.table([hosts, counts], HOSTS)


def _update_patterns(patterns: pa.Table, kept: pa.Table, max_alike: int) -> pa.Table:
    """Add the pages kept in this round to the statistics per pattern."""
    kept = kept.filter(pc.and_(pc.is_valid(kept["simhash"]), pc.invert(kept["listed"])))
    touched = pc.is_in(patterns["pattern"], value_set=kept["pattern"].combine_chunks())
    known = {row["pattern"]: row for row in patterns.filter(touched).to_pylist()}
    now = {
        name: Pattern(row["pages"], [(Fingerprint(g["images"], g["simhash"]), g["pages"]) for g in row["groups"]])
        for name, row in known.items()
    }
    for name, *page in zip(*(kept[column].to_pylist() for column in ("pattern", "images", "simhash")), strict=True):
        now.setdefault(name, Pattern()).add(Fingerprint(*page))
    rows = [
        {
            "pattern": name,
            "pages": one.pages,
            "groups": [{**group._asdict(), "pages": count} for group, count in one.groups],
            "trap": (name in known and known[name]["trap"]) or one.is_trap(max_alike),
        }
        for name, one in now.items()
    ]
    return pa.concat_tables([patterns.filter(pc.invert(touched)), pa.Table.from_pylist(rows, PATTERNS)])


def _mark_traps(urls: pa.Table, patterns: pa.Table) -> pa.Table:
    """Give URLs of trap patterns a drop reason, except those listed in the configuration."""
    traps = patterns["pattern"].filter(patterns["trap"]).combine_chunks()
    caught = pc.and_(pc.is_in(urls["pattern"], value_set=traps), pc.invert(urls["listed"]))
    caught = pc.and_(caught, pc.is_null(urls["reason"]))
    for name, value in (("reason", str(Drop.TRAP)), ("detail", "near_identical")):
        column = pc.if_else(caught, pa.scalar(value), urls[name])
        urls = urls.set_column(urls.schema.get_field_index(name), name, column)
    return urls


# --- generate: URLs of a round ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generate:
    """``count``: number of ready URLs to take; ``offset``: position in the round of the first."""

    generation: int
    partition: int
    count: int
    offset: int
    config: Config


def generate(spec: Generate, output: ShardOutput) -> ShardRecord:
    """Write the URLs of a round, a row group per shard. Facts: ``shards``, the number of URLs in each."""
    urls, pages = _state(spec, output, "urls", "hosts")
    rows = np.flatnonzero(_ready(urls, pages, spec.config))[: spec.count]
    table = urls.take(pa.array(rows)).select([name for name, _ in URL])
    table = table.add_column(0, "position", pa.array(np.arange(len(rows)) + spec.offset))
    table = table.add_column(0, "row", pa.array(rows))
    shards = deal(table["host"].to_numpy(), spec.config.shard_urls)
    with output.open(path_of(spec.generation, spec.partition, "due")) as sink, writer(sink, DUE) as groups:
        for shard in shards:
            groups.write_table(table.take(pa.array(shard)), row_group_size=len(shard))
    return output.commit(facts={"shards": [len(shard) for shard in shards]})


def deal(hosts: np.ndarray, shard_urls: int) -> list[np.ndarray]:
    """Return the rows of each shard: all of a host in the same one, spread out so that a slow host delays only itself.

    The number of shards follows from the number of URLs, never from the machine, so that a rerun gives the same shards.
    """
    if not len(hosts):
        return []
    names, home, sizes = np.unique(hosts, return_inverse=True, return_counts=True)
    count = min(len(names), -(-len(hosts) // shard_urls))
    shards = [(0, number) for number in range(count)]
    shard_of = np.empty(len(names), np.int64)
    for host in np.argsort(-sizes, kind="stable"):
        size, number = shards[0]
        heapq.heapreplace(shards, (size + int(sizes[host]), number))
        shard_of[host] = number
    order = np.lexsort((np.arange(len(hosts)), _ranks(hosts), shard_of[home]))
    return np.split(order, np.cumsum(np.bincount(shard_of[home]))[:-1])


def _ranks(hosts: np.ndarray) -> np.ndarray:
    """Return, for each row, the number of earlier rows of the same host."""
    order = np.argsort(hosts, kind="stable")
    ordered = hosts[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(hosts)])
    ranks = np.empty(len(hosts), np.int64)
    ranks[order] = np.arange(len(hosts)) - np.repeat(starts, np.diff(np.r_[starts, len(hosts)]))
    return ranks


def _page_budget(hosts: np.ndarray, pages: pa.Table, config: Config) -> np.ndarray:
    """Return, for each row, how many more pages of its host may be kept."""
    if config.max_pages_per_host is None:
        return np.full(len(hosts), np.iinfo(np.int64).max)
    known = np.r_[pages["host"].to_numpy(), np.uint64(0)]  # sentinel for hosts beyond the last
    counts = np.r_[pages["pages"].to_numpy(), 0]
    at = np.searchsorted(known[:-1], hosts)
    return config.max_pages_per_host - np.where(known[at] == hosts, counts[at], 0)


def _ready(urls: pa.Table, pages: pa.Table, config: Config) -> np.ndarray:
    """Return a mask of the rows the next round may fetch: those without a reason, within the budgets of their hosts."""
    waiting = pc.is_null(urls["reason"]).to_numpy()
    hosts = urls["host"].to_numpy()[waiting]
    ready = np.zeros(urls.num_rows, bool)
    ready[waiting] = _ranks(hosts) < np.minimum(_page_budget(hosts, pages, config), config.host_size)
    return ready


# --- unvisited --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unvisited:
    """A partition of the last generation."""

    generation: int
    partition: int
    config: Config


def unvisited(spec: Unvisited, output: ShardOutput) -> ShardRecord:
    """Write the URLs never fetched, with the reason: a trap, or a budget (``pages``, ``host``, ``depth``)."""
    urls, pages = _state(spec, output, "urls", "hosts")
    waiting = pc.is_null(urls["reason"])
    over = pa.array(_page_budget(urls["host"].to_numpy(), pages, spec.config) <= 0)
    budget = pc.if_else(over, "host", "pages")
    reason = pc.if_else(waiting, str(Drop.BUDGET), urls["reason"])
    detail = pc.if_else(waiting, budget, urls["detail"])
    table = pa.table(
        [pa.array([shown(url) for url in urls["url"].to_pylist()], pa.string()), urls["depth"], reason, detail],
        UNVISITED,
    )
    if table.num_rows:
        output.write_table(f"data/unvisited-{spec.partition:03d}.parquet", table)
    dropped = {row["values"]: row["counts"] for row in reason.value_counts().to_pylist()}
    return output.commit(Funnel(unit=UNIT, entered=len(urls), kept=0, dropped=dict(sorted(dropped.items()))))

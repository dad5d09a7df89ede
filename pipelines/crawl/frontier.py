"""The frontier: every URL a crawl knows, on disk, in partitions by host.

A crawl knows far more URLs than it fetches, so they live in Parquet and not in anybody's memory. A URL's host decides
its partition; a partition is worked on by one task at a time and needs no other. Its tables are written anew in each
round (*generations*), so whatever is killed finds the ones before it untouched (see pipelines.crawl.frontier_tables).

:func:`generate` makes the due ones, :func:`update` the next generation, :func:`unvisited` the account of the rest. All
are pure functions of files: same tables, same bytes, whoever runs them and wherever. Between them the driver holds
counts only, which ``pipelines.crawl.stage.share`` turns into what each partition may take of a round.
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
from pipelines.crawl.stage import UNIT, Config
from pipelines.crawl.traps import Fingerprint, Pattern

__all__ = ["Generate", "Unvisited", "Update", "deal", "generate", "unvisited", "update"]


# --- update: a generation and what was fetched and found -> the next generation ---------------------------------------


@dataclass(frozen=True)
class Update:
    """``found``: all files of what was found in this round; ``mine``: the shards that fetched this partition's due
    URLs, in the order of their row groups."""

    generation: int  # of what is read; the next one is written
    partition: int
    found: tuple[str, ...]
    mine: tuple[str, ...]
    config: Config


def update(spec: Update, output: ShardOutput) -> ShardRecord:
    """Write the next generation. Facts: ``ready``, how many URLs of each depth a round could take; ``rows``, how many
    the partition holds."""
    urls, pages, patterns = (
        read_state(output.store, spec.generation, spec.partition, name) for name in ("urls", "hosts", "patterns")
    )
    fetched = _fetched(output.store, spec)
    urls = urls.filter(pa.array(~np.isin(np.arange(urls.num_rows), fetched["row"].to_numpy())))
    kept = fetched.filter(pc.is_null(fetched["reason"]))
    pages = _count(pages, kept)
    patterns = _judge(patterns, kept, spec.config.traps.max_alike)
    found = read_found(output.store, spec.found, spec.partition)
    fresh = found.filter(pa.array(_unseen(output, spec, found["key"])))
    urls = pa.concat_tables([urls, fresh.select(URLS.names)])
    urls = urls.take(pa.array(np.argsort(urls["depth"].to_numpy(), kind="stable")))  # what waited goes first
    urls = _trapped(urls, patterns)
    for name, table in (("urls", urls), ("hosts", pages), ("patterns", patterns)):
        with output.open(path_of(spec.generation + 1, spec.partition, name)) as sink:
            pq.write_table(table, sink, compression="zstd", row_group_size=ROWS)
    depths, counts = np.unique(urls["depth"].to_numpy()[_ready(urls, pages, spec.config)], return_counts=True)
    ready = dict(zip(map(str, depths.tolist()), counts.tolist(), strict=True))
    return output.commit(facts={"ready": ready, "rows": urls.num_rows})


def _state(spec: Update | Generate | Unvisited, output: ShardOutput, *names: str) -> list[pa.Table]:
    return [read_state(output.store, spec.generation, spec.partition, name) for name in names]


def _fetched(store: Store, spec: Update) -> pa.Table:
    """The due rows of this partition, each with what came of it."""
    parts = [pa.schema([*DUE, *OUTCOME]).empty_table()]
    for group, shard in enumerate(spec.mine):
        with store.open(path_of(spec.generation, spec.partition, "due")) as source:
            part = pq.ParquetFile(source).read_row_group(group)
        with store.open(f"data/{shard}.urls.parquet") as source:
            outcome = pq.read_table(source, columns=OUTCOME.names)
        for name in OUTCOME.names:
            part = part.append_column(name, outcome[name])
        parts.append(part)
    return pa.concat_tables(parts)


def _unseen(output: ShardOutput, spec: Update, keys: pa.ChunkedArray) -> np.ndarray:
    """Which of the distinct ``keys`` are new; the next generation's hashes are written on the way."""
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


def _count(pages: pa.Table, kept: pa.Table) -> pa.Table:
    """Pages per host, by host."""
    hosts, back = np.unique(np.r_[pages["host"].to_numpy(), kept["host"].to_numpy()], return_inverse=True)
    counts = np.zeros(len(hosts), np.int64)
    np.add.at(counts, back, np.r_[pages["pages"].to_numpy(), np.ones(kept.num_rows, np.int64)])
    return pa.table([hosts, counts], HOSTS)


def _judge(patterns: pa.Table, kept: pa.Table, max_alike: int) -> pa.Table:
    """What is known of each pattern, with the pages kept in this round."""
    kept = kept.filter(pc.and_(pc.is_valid(kept["simhash"]), pc.invert(kept["listed"])))
    touched = pc.is_in(patterns["pattern"], value_set=kept["pattern"].combine_chunks())
    known = {row["pattern"]: row for row in patterns.filter(touched).to_pylist()}
    now = {
        name: Pattern(row["pages"], [(Fingerprint(g["pictures"], g["simhash"]), g["pages"]) for g in row["groups"]])
        for name, row in known.items()
    }
    for name, *page in zip(*(kept[column].to_pylist() for column in ("pattern", "pictures", "simhash")), strict=True):
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


def _trapped(urls: pa.Table, patterns: pa.Table) -> pa.Table:
    """``urls`` with those of trap patterns given up, except what was asked for by name."""
    traps = patterns["pattern"].filter(patterns["trap"]).combine_chunks()
    caught = pc.and_(pc.is_in(urls["pattern"], value_set=traps), pc.invert(urls["listed"]))
    caught = pc.and_(caught, pc.is_null(urls["reason"]))
    for name, value in (("reason", str(Drop.TRAP)), ("detail", "near_identical")):
        column = pc.if_else(caught, pa.scalar(value), urls[name])
        urls = urls.set_column(urls.schema.get_field_index(name), name, column)
    return urls


# --- generate: what a round fetches -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generate:
    """``count`` of the URLs that are ready; their positions in the round begin at ``offset``."""

    generation: int
    partition: int
    count: int
    offset: int
    config: Config


def generate(spec: Generate, output: ShardOutput) -> ShardRecord:
    """Write what is due, a row group per shard. Facts: ``shards``, the number of URLs in each."""
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
    """The rows of each shard: every host in one of them, its turns spread over the shard so that a slow host holds up
    nobody but itself.

    The number of shards follows from the number of URLs, never from the machine, so that a rerun deals the same.
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
    order = np.lexsort((np.arange(len(hosts)), _turns(hosts), shard_of[home]))
    return np.split(order, np.cumsum(np.bincount(shard_of[home]))[:-1])


def _turns(hosts: np.ndarray) -> np.ndarray:
    """For each row, how many rows before it are of its host."""
    order = np.argsort(hosts, kind="stable")
    ordered = hosts[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(hosts)])
    turns = np.empty(len(hosts), np.int64)
    turns[order] = np.arange(len(hosts)) - np.repeat(starts, np.diff(np.r_[starts, len(hosts)]))
    return turns


def _left_to(hosts: np.ndarray, pages: pa.Table, config: Config) -> np.ndarray:
    """How many pages may still be kept of each row's host."""
    if config.max_pages_per_host is None:
        return np.full(len(hosts), np.iinfo(np.int64).max)
    known = np.r_[pages["host"].to_numpy(), np.uint64(0)]  # one more, for what lies behind the last
    counts = np.r_[pages["pages"].to_numpy(), 0]
    at = np.searchsorted(known[:-1], hosts)
    return config.max_pages_per_host - np.where(known[at] == hosts, counts[at], 0)


def _ready(urls: pa.Table, pages: pa.Table, config: Config) -> np.ndarray:
    """Which rows the next round may take: those that wait, as far as their host's budgets go."""
    waiting = pc.is_null(urls["reason"]).to_numpy()
    hosts = urls["host"].to_numpy()[waiting]
    ready = np.zeros(urls.num_rows, bool)
    ready[waiting] = _turns(hosts) < np.minimum(_left_to(hosts, pages, config), config.host_size)
    return ready


# --- the end ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unvisited:
    """The last generation's partition."""

    generation: int
    partition: int
    config: Config


def unvisited(spec: Unvisited, output: ShardOutput) -> ShardRecord:
    """Keep what was never fetched, and why: a trap, or a budget (``pages``, ``host``, ``depth``)."""
    urls, pages = _state(spec, output, "urls", "hosts")
    waiting = pc.is_null(urls["reason"])
    over = pa.array(_left_to(urls["host"].to_numpy(), pages, spec.config) <= 0)
    budget = pc.if_else(over, "host", "pages")
    reason = pc.if_else(waiting, str(Drop.BUDGET), urls["reason"])
    detail = pc.if_else(waiting, budget, urls["detail"])
    table = pa.table([urls["url"], urls["depth"], reason, detail], UNVISITED)
    if table.num_rows:
        output.write_table(f"data/unvisited-{spec.partition:03d}.parquet", table)
    dropped = {row["values"]: row["counts"] for row in reason.value_counts().to_pylist()}
    return output.commit(Funnel(unit=UNIT, entered=len(urls), kept=0, dropped=dict(sorted(dropped.items()))))

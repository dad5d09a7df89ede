"""The frontier against a model in plain Python: the same rounds for any web, partitions and budgets."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.run.context import Context, ShardOutput
from pipelines.crawl import frontier, frontier_tables
from pipelines.crawl.config import Config
from pipelines.crawl.frontier import Generate, Unvisited, Update
from pipelines.crawl.frontier_tables import Due, Found, FoundSet
from pipelines.crawl.rounds import allot
from pipelines.crawl.shard import _URLS
from pipelines.crawl.traps import hash64
from pipelines.web.urls import host_of

URLS = [f"http://{host}.example/{page}" for page in range(12) for host in "abcde"]


class Disk:
    """The frontier's steps as a crawl takes them, in one process; ``web``: the links of each page that can be had."""

    def __init__(self, folder: str, config: Config, web: dict[str, list[str]]) -> None:
        self.folder, self.config, self.web = Path(folder), config, web
        self.store = Context(folder).store
        self.generation = self.kept = 0
        self.dealt: list[list[int]] = [[] for _ in range(config.partition_count)]

    def output(self, name: str) -> ShardOutput:
        return ShardOutput(self.store, name)

    def inject(self, seeds: list[str]) -> list[dict[int, int]]:
        given = self.output("inject")
        frontier_tables.write_found(
            given, 0, "inject", [Found(n, Due(url, 0)) for n, url in enumerate(seeds)], self.partitions
        )
        return self.update(frontier_tables.found_files(given.commit()), [])

    @property
    def partitions(self) -> int:
        return self.config.partition_count

    def round(self, ready: list[dict[int, int]]) -> list[list[tuple[int, Due]]]:
        counts = allot(ready, min(self.config.round_size, self.config.max_pages - self.kept))
        shards = []
        for home, count in enumerate(counts):
            spec = Generate(self.generation, home, count, sum(counts[:home]), self.config)
            record = frontier.generate(spec, self.output(f"{self.generation}-due-{home}"))
            self.dealt[home] = record.facts["shards"]
            for group, size in enumerate(self.dealt[home]):
                shards.append(frontier_tables.read_due(self.store, self.generation, home, group))
                assert len(shards[-1]) == size
        return shards

    def fetch(self, shards: list[list[tuple[int, Due]]]) -> list[dict[int, int]]:
        names, found = [], []
        for number, shard in enumerate(shards):
            output = self.output(f"{self.generation}-{number}")
            names.append(output.shard)
            rows = [{"url": due.url, "reason": None if due.url in self.web else "http_error"} for _, due in shard]
            output.write_table(f"data/{output.shard}.urls.parquet", pa.Table.from_pylist(rows, _URLS))
            links = [
                Found(position, Due(link, due.depth + 1))
                for position, due in shard
                for link in self.web.get(due.url, ())
            ]
            frontier_tables.write_found(output, self.generation, output.shard, FoundSet(links), self.partitions)
            found += frontier_tables.found_files(output.commit())
            self.kept += sum(row["reason"] is None for row in rows)
        return self.update(found, names)

    def update(self, found: list[str], names: list[str]) -> list[dict[int, int]]:
        ready, left = [], iter(names)
        for home, shards in enumerate(self.dealt):
            mine = tuple(next(left) for _ in shards)
            spec = Update(self.generation, home, tuple(found), mine, self.config)
            record = frontier.update(spec, self.output(f"{self.generation}-update-{home}"))
            ready.append({int(depth): count for depth, count in record.facts["ready"].items()})
        self.generation += 1
        return ready

    def unvisited(self) -> dict[str, str]:
        left = {}
        for home in range(self.partitions):
            record = frontier.unvisited(Unvisited(self.generation, home, self.config), self.output(f"left-{home}"))
            for file in record.files:
                left |= {row["url"]: row["detail"] for row in pq.read_table(self.folder / file.path).to_pylist()}
        return left


class Plain:
    """The same in memory, one URL after the other."""

    def __init__(self, config: Config, web: dict[str, list[str]]) -> None:
        self.config, self.web = config, web
        self.waiting: list[Due] = []
        self.seen: set[str] = set()
        self.kept: Counter[str] = Counter()

    def add(self, found: list[Due]) -> None:
        for due in sorted(found, key=lambda due: due.depth):
            if due.url not in self.seen:
                self.seen.add(due.url)
                self.waiting.append(due)
        self.waiting.sort(key=lambda due: due.depth)

    def home(self, due: Due) -> int:
        return hash64(host_of(due.url)) % self.config.partition_count

    def left_to(self, host: str) -> int:
        return (self.config.max_pages_per_host or 10**9) - self.kept[host]

    def round(self) -> list[Due]:
        turns: Counter[str] = Counter()
        ready: list[list[Due]] = [[] for _ in range(self.config.partition_count)]
        for due in self.waiting:
            host = host_of(due.url)
            if turns[host] < min(self.config.host_size, self.left_to(host)):
                ready[self.home(due)].append(due)
            turns[host] += 1
        counts = allot(
            [Counter(due.depth for due in part) for part in ready],
            min(self.config.round_size, self.config.max_pages - self.kept.total()),
        )
        return [due for part, count in zip(ready, counts, strict=True) for due in part[:count]]

    def fetch(self, taken: list[Due]) -> None:
        self.waiting = [due for due in self.waiting if due not in taken]
        self.kept.update(host_of(due.url) for due in taken if due.url in self.web)
        self.add([Due(link, due.depth + 1) for due in taken for link in self.web.get(due.url, ())])


@pytest.mark.long
@settings(max_examples=12)
@given(
    st.dictionaries(st.sampled_from(URLS), st.lists(st.sampled_from(URLS), max_size=8), max_size=40),
    st.lists(st.sampled_from(URLS), min_size=1, max_size=4, unique=True),
    st.sampled_from([1, 2, 5]),
    st.sampled_from([3, 10, 100]),
    st.sampled_from([1, 2, 50]),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([4, 15, 1000]),
)
def test_rounds_are_those_of_a_frontier_in_memory(web, seeds, partitions, round_urls, host_urls, per_host, pages):
    config = Config(
        seeds=seeds, partitions=partitions, round_urls=round_urls, host_urls=host_urls, max_pages_per_host=per_host,
        max_pages=pages, shard_urls=2,
    )  # fmt: skip
    plain = Plain(config, web)
    plain.add([Due(url, 0) for url in seeds])
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(folder, config, web)
        ready = disk.inject(seeds)
        while disk.kept < pages:
            expected = plain.round()
            if not expected:
                break
            shards = disk.round(ready)
            rows = sorted(row for shard in shards for row in shard)
            assert [position for position, _ in rows] == list(range(len(expected)))
            assert [due for _, due in rows] == expected
            homes = [{host_of(due.url) for _, due in shard} for shard in shards]
            assert sum(map(len, homes)) == len(set().union(*homes))
            ready = disk.fetch(shards)
            plain.fetch(expected)
        assert disk.kept == plain.kept.total() <= pages
        assert max(plain.kept.values(), default=0) <= (per_host or pages)
        left = {due.url: "host" if plain.left_to(host_of(due.url)) <= 0 else "pages" for due in plain.waiting}
        assert disk.unvisited() == left


def test_a_url_found_twice_keeps_its_shortest_way(tmp_path):
    config = Config(seeds=["http://a.example/"], partitions=1)
    outputs = [ShardOutput(Context(tmp_path).store, name) for name in ("x", "y")]
    there = Due("http://a.example/x", 2, redirects=1)
    x = FoundSet([Found(3, there), Found(2, there._replace(redirects=2))])
    y = FoundSet([Found(9, there._replace(depth=1)), Found(0, Due(there.url + "y", 2))])
    frontier_tables.write_found(outputs[0], 0, "x", x, 1)
    frontier_tables.write_found(outputs[1], 0, "y", y, 1)
    found = tuple(path for output in outputs for path in frontier_tables.found_files(output.commit()))
    frontier.update(Update(0, 0, found, (), config), ShardOutput(Context(tmp_path).store, "update"))
    frontier.generate(Generate(1, 0, 9, 0, config), ShardOutput(Context(tmp_path).store, "due"))
    rows = frontier_tables.read_due(Context(tmp_path).store, 1, 0, 0)
    assert rows == [(0, there._replace(depth=1)), (1, Due(there.url + "y", 2))]


@given(st.lists(st.dictionaries(st.integers(0, 3), st.integers(0, 9)), max_size=6), st.integers(0, 60))
def test_a_round_is_shared_exactly_and_by_depth(ready, count):
    shares = allot(ready, count)
    total = sum(sum(one.values()) for one in ready)
    assert sum(shares) == min(count, total)
    assert all(0 <= one <= sum(have.values()) for one, have in zip(shares, ready, strict=True))
    for depth in range(4):  # nothing deep is taken while something less deep waits
        less = [sum(n for d, n in have.items() if d <= depth) for have in ready]
        if sum(less) <= count:
            assert all(one >= low for one, low in zip(shares, less, strict=True))


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 20))
def test_dealing_loses_nothing_splits_no_host_and_takes_hosts_in_turn(hosts, size):
    hosts = np.array(hosts, np.uint64)
    shards = frontier.deal(hosts, size)
    assert sorted(row for shard in shards for row in shard.tolist()) == list(range(len(hosts)))
    homes = [set(hosts[shard].tolist()) for shard in shards]
    assert sum(map(len, homes)) == len(set().union(*homes))
    assert len(shards) == min(len(set(hosts.tolist())), -(-len(hosts) // size))
    for shard in shards:
        turns: Counter[int] = Counter()
        last = 0
        for row in shard.tolist():
            turns[hosts[row]] += 1
            assert turns[hosts[row]] >= last
            last = turns[hosts[row]]

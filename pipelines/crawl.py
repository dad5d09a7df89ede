"""Crawl a site politely, breadth first, and keep its pages as WARC.

The crawl goes in rounds, as Nutch does: *generate* takes the URLs that are due from the frontier and deals them to
shards, all of a host to one, so that one worker keeps its manners; *fetch* gets a shard's pages; *update* merges the
links they found into the frontier. Shards and updates are committed as they end, so a crawl that was killed goes on at
its round, and what is fetched depends on nothing but the site and the configuration.

Files: ``data/{round}-{part}.warc.gz`` the pages; ``.urls.parquet`` what became of each URL; ``.links.parquet`` where
they lead; ``data/{round}-update.parquet`` the URLs new to the frontier; ``data/unvisited.parquet`` what the budgets
left over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pydantic import Field, field_validator

from infra.config import Config as BaseConfig
from infra.config import Runtime
from infra.context import Context, ShardOutput
from infra.manifest import Artifact, Funnel, Manifest, ShardRecord
from infra.schema import Drop
from pipelines.fetch import Web

__all__ = ["Config", "Due", "Frontier", "Scope", "deal", "run"]

UNIT = "pages"

_IMAGES = (".avif", ".bmp", ".gif", ".ico", ".jpeg", ".jpg", ".jxl", ".png", ".svg", ".tif", ".tiff", ".webp")


class Config(BaseConfig):
    """What to crawl, how far, and how to behave."""

    seeds: tuple[str, ...] = Field(..., min_length=1, description="addresses to start from")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description='hosts to stay on, as patterns like "*.example.org"; empty: the seeds\' own, with and without www.',
    )
    include: tuple[str, ...] = Field((), description="regular expressions; a link must match one, if there are any")
    exclude: tuple[str, ...] = Field((), description="regular expressions; a link that matches one is not followed")
    ignored_parameters: tuple[str, ...] = Field(
        ("utm_*", "fbclid", "gclid", "mc_cid", "mc_eid", "phpsessid", "jsessionid"),
        description="query parameters, as patterns, that do not change a page and are cut off",
    )
    max_pages: int = Field(1000, gt=0, description="pages kept at most")
    max_depth: int | None = Field(None, ge=0, description="links away from a seed at most")
    round_urls: int = Field(2000, gt=0, description="URLs fetched in one round at most")
    host_urls: int = Field(500, gt=0, description="of these, URLs of one host at most")
    shard_urls: int = Field(200, gt=0, description="URLs a shard should hold; one host's are never split")
    warc_date: str | None = Field(
        None, description="instant to record as WARC-Date and Date, as 2026-01-01T00:00:00Z, for bytes that repeat"
    )
    web: Web = Field(Web(), description="how to fetch")
    attempts: Runtime[int] = Field(3, gt=0, description="attempts per shard when a worker is lost")

    @field_validator("seeds")
    @classmethod
    def _canonical(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from pipelines.urls import canonical

        return tuple(dict.fromkeys(canonical(seed) for seed in value))

    @field_validator("include", "exclude")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"a regular expression; {error}") from None
        return value

    @field_validator("warc_date")
    @classmethod
    def _instant(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", value):
            raise ValueError("an instant like 2026-01-01T00:00:00Z")
        return value


class Due(NamedTuple):
    """A URL to fetch. ``redirects``: how many led to it, one from another."""

    url: str
    depth: int
    redirects: int = 0


class Scope:
    """Which links belong to the crawl."""

    def __init__(self, config: Config) -> None:
        from pipelines.urls import host_of

        hosts = config.allowed_hosts or tuple(twin for seed in config.seeds for twin in _twins(host_of(seed)))
        self._exact = {host for host in hosts if not set(host) & set("*?[")}
        self._patterns = [host for host in hosts if set(host) & set("*?[")]
        self._include = [re.compile(pattern) for pattern in config.include]
        self._exclude = [re.compile(pattern) for pattern in config.exclude]

    def outside(self, url: str) -> str:
        """Why a canonical URL is not part of the crawl; empty if it is."""
        from pipelines.urls import host_of, matches

        host = host_of(url)
        if host not in self._exact and not any(matches(host, pattern) for pattern in self._patterns):
            return "off_site"
        if url.partition("?")[0].lower().endswith(_IMAGES):
            return "image"
        if self._include and not any(pattern.search(url) for pattern in self._include):
            return "not_included"
        if any(pattern.search(url) for pattern in self._exclude):
            return "excluded"
        return ""


def _twins(host: str) -> tuple[str, str]:
    """A host with and without ``www.``: sites redirect from one to the other."""
    bare = host.removeprefix("www.")
    return bare, f"www.{bare}"


class Frontier:
    """The URLs known and those still to fetch, first found first."""

    def __init__(self, max_depth: int | None) -> None:
        self._max_depth = max_depth
        self._seen: set[str] = set()
        self._waiting: list[Due] = []
        self._too_deep: list[Due] = []

    def add(self, found: Iterable[Due]) -> list[Due]:
        """Those of ``found`` that were not known yet."""
        fresh = []
        for due in found:
            if due.url not in self._seen:
                self._seen.add(due.url)
                fresh.append(due)
                too_deep = self._max_depth is not None and due.depth > self._max_depth
                (self._too_deep if too_deep else self._waiting).append(due)
        return fresh

    def take(self, count: int, per_host: int) -> list[Due]:
        """The next ``count`` URLs at most, ``per_host`` of a host at most."""
        from pipelines.urls import host_of

        taken: list[Due] = []
        left: list[Due] = []
        hosts: Counter[str] = Counter()
        for due in self._waiting:
            host = host_of(due.url)
            if len(taken) < count and hosts[host] < per_host:
                hosts[host] += 1
                taken.append(due)
            else:
                left.append(due)
        self._waiting = left
        return taken

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def left(self) -> list[tuple[Due, str]]:
        """What was never taken, and which budget it was over."""
        return [(due, "pages") for due in self._waiting] + [(due, "depth") for due in self._too_deep]


def deal(due: list[Due], shard_urls: int) -> list[list[tuple[int, Due]]]:
    """Positions and URLs of each shard: every host in one of them, its turns spread over the shard.

    The number of shards follows from the number of URLs, never from the machine, so that a rerun deals the same.
    """
    from pipelines.urls import host_of

    hosts: dict[str, list[tuple[int, Due]]] = {}
    for position, one in enumerate(due):
        hosts.setdefault(host_of(one.url), []).append((position, one))
    shards: list[dict[str, list[tuple[int, Due]]]] = [{} for _ in range(min(len(hosts), -(-len(due) // shard_urls)))]
    sizes = [0] * len(shards)
    for host, rows in sorted(hosts.items(), key=lambda item: (-len(item[1]), item[0])):
        smallest = sizes.index(min(sizes))
        shards[smallest][host] = rows
        sizes[smallest] += len(rows)
    return [_interleave(list(shard.values())) for shard in shards]


def _interleave(queues: list[list[tuple[int, Due]]]) -> list[tuple[int, Due]]:
    """The first of each queue, then the second of each, and so on: a slow host holds up nobody but itself."""
    rows = [(turn, position, due) for queue in queues for turn, (position, due) in enumerate(queue)]
    return [(position, due) for _, position, due in sorted(rows)]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """No inputs. Funnel: distinct URLs on the site -> pages kept."""
    from pipelines.crawl_shard import read_links

    frontier = Frontier(config.max_depth)
    frontier.add(Due(seed, 0) for seed in config.seeds)
    committed = context.ledger.read()
    records: list[ShardRecord] = []
    kept = rounds = 0
    while kept < config.max_pages:
        due = frontier.take(min(config.round_urls, config.max_pages - kept), config.host_urls)
        if not due:
            break
        done = _fetch(config, context, rounds, due, committed)
        records += done
        kept += sum(record.funnel.kept for record in done if record.funnel)
        name = f"{rounds:04d}-update"
        if name not in committed:
            links = [link for record in done for link in read_links(context.store, record)]
            committed[name] = _commit_update(context, name, frontier, links)
        else:
            frontier.add(_read_update(context, committed[name]))
        records.append(committed[name])
        rounds += 1
        context.progress(kept, min(config.max_pages, kept + frontier.waiting), rounds=rounds)
    return _finish(context, frontier, records, rounds)


def _fetch(
    config: Config, context: Context, number: int, due: list[Due], committed: dict[str, ShardRecord]
) -> list[ShardRecord]:
    from infra.cluster import Limits, run_shards
    from pipelines.crawl_shard import Shard, work

    shards = [
        (name := f"{number:04d}-{part:03d}", Shard(name, rows, config))
        for part, rows in enumerate(deal(due, config.shard_urls))
    ]
    if all(name in committed for name, _ in shards):
        return [committed[name] for name, _ in shards]
    return run_shards(context, shards, work, Limits(attempts=config.attempts))


def _commit_update(context: Context, name: str, frontier: Frontier, links: list[tuple[int, Due]]) -> ShardRecord:
    """Merge a round's links in the order of the pages they are on, and keep the new ones."""
    import pyarrow as pa

    links.sort(key=lambda link: link[0])  # stable: links of one page stay in its order
    fresh = frontier.add(due for _, due in links)
    output = ShardOutput(context.store, name)
    columns = {
        "url": pa.array([due.url for due in fresh], pa.string()),
        "depth": pa.array([due.depth for due in fresh], pa.int32()),
        "redirects": pa.array([due.redirects for due in fresh], pa.int32()),
    }
    output.write_table(f"data/{name}.parquet", pa.table(columns))
    return output.commit()


def _read_update(context: Context, record: ShardRecord) -> list[Due]:
    import pyarrow.parquet as pq

    with context.store.open(record.files[0].path) as source:
        table = pq.read_table(source)
    return [Due(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def _finish(context: Context, frontier: Frontier, records: list[ShardRecord], rounds: int) -> Manifest:
    import pyarrow as pa

    left = frontier.left()
    if left:
        context.output.write_table(
            "data/unvisited.parquet",
            pa.table(
                {
                    "url": [due.url for due, _ in left],
                    "depth": pa.array([due.depth for due, _ in left], pa.int32()),
                    "reason": [Drop.BUDGET.value] * len(left),
                    "detail": [budget for _, budget in left],
                }
            ),
        )
    parts = [record.funnel for record in records if record.funnel]
    parts.append(Funnel(unit=UNIT, entered=len(left), kept=0, dropped={Drop.BUDGET: len(left)} if left else {}))
    funnel = sum(parts[1:], parts[0])
    outside: Counter[str] = Counter()
    for record in records:
        outside.update(record.facts.get("links_outside", {}))
    return context.finish(
        records,
        funnel=funnel,
        metrics={"pages": float(funnel.kept), "rounds": float(rounds)},
        facts={"links_outside": dict(sorted(outside.items()))},
    )

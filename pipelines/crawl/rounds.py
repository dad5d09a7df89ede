"""The driver of a crawl: runs the steps of each round on shards and partitions, and keeps the counts.

No URL passes through the driver, and of the records of shards it holds some thousands. Steps on small tables run in
this process, with the same functions, since handing them to Ray workers would take longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from itertools import islice
from typing import Any

from msgspec import structs

from infra.cluster import run_shards
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Manifest, ShardRecord
from infra.run.pieces import PIECE, Records
from infra.schema import Drop
from pipelines.crawl.config import UNIT, Config
from pipelines.crawl.frontier import Generate, Unvisited, Update, generate, unvisited, update
from pipelines.crawl.frontier_tables import found_files, read_due
from pipelines.crawl.shard import DueShard, fetch
from pipelines.crawl.sources import inject, sources
from pipelines.tables import read_table
from pipelines.urls.files import ListFile
from pipelines.web.health import SuccessFloor, nothing_kept, preflight
from pipelines.web.politeness.actor import shared_limiter
from pipelines.web.politeness.client import LimiterClient
from pipelines.web.urls import host_of

__all__ = ["Rounds", "allot"]

_SMALL = 50_000  # URLs that the driver processes faster than it could hand them to Ray workers
_FLOOR_URLS = 1000  # before the success rate is checked
_LOOK_AT = 16  # tables of outcomes from which details are quoted
_FAILURES = frozenset(
    {Drop.HTTP_ERROR, Drop.TIMEOUT, Drop.CONNECTION, Drop.HOST_DOWN, Drop.RATE_LIMITED, Drop.REFUSED, Drop.TRUNCATED}
)


def allot(ready: list[dict[int, int]], count: int) -> list[int]:
    """Return how many of a round's ``count`` URLs each partition fetches; ``ready``: for each, its URLs by depth.

    Smaller depths go first in all partitions; where the budget ends within a depth, partitions get their proportional
    parts (largest remainders), so that counts suffice.
    """
    allotted = [0] * len(ready)
    for depth in sorted(set().union(*ready)):
        here = [one.get(depth, 0) for one in ready]
        total = sum(here)
        if total > count:
            floors = [one * count // total for one in here]
            rest = sorted(range(len(here)), key=lambda index: (-(here[index] * count % total), index))
            for index in rest[: count - sum(floors)]:
                floors[index] += 1
            here = floors
        allotted = [one + more for one, more in zip(allotted, here, strict=True)]
        count -= sum(here)
    return allotted


class Rounds:
    """State of a crawl, in counts, and its steps. A step that is already committed only yields its counts."""

    def __init__(self, config: Config, page_lists: Sequence[ListFile], context: Context, stack: ExitStack) -> None:
        self.config, self.page_lists, self.context, self._stack = config, page_lists, context, stack
        self.kept = 0
        self.generation = 0  # of the frontier: one per round, and one for the starting URLs
        self._partitions = range(config.partition_count)
        self._ready: list[dict[int, int]] = []
        self._rows = 0  # URLs in the frontier
        self._shard_sizes: list[list[int]] = [[] for _ in self._partitions]  # URLs in each shard of each partition
        self._fetched = Records(context.store)  # in this round
        self._floor = SuccessFloor(config.min_success_share, _FLOOR_URLS)
        self._records = Records(context.store)  # that lasts
        self._resumed = context.ledger.count() > 0  # and still among the steps of an earlier attempt

    @cached_property
    def limiter(self) -> LimiterClient:
        """Client of the shared rate limiter, started at the first request: a finished crawl needs none."""
        return self._stack.enter_context(shared_limiter(self.config.web))

    def inject(self) -> None:
        """Put the starting URLs into the frontier."""
        given, remote = sources(self.config, self.page_lists)
        self._fetched = self._run(given, inject, small=True).plus(self._run(remote, inject, fetches=True))
        self._keep(self._fetched)

    def generate(self) -> bool:
        """Select the URLs of the next round and deal them to shards; False if there are none."""
        counts = allot(self._ready, min(self.config.round_size, self.config.max_pages - self.kept))
        if not any(counts):
            return False
        specs = {
            self._name(f"due-{partition:03d}"): Generate(
                self.generation, partition, count, sum(counts[:partition]), self.config
            )
            for partition, count in enumerate(counts)
        }
        records = self._run(specs, generate, small=self._rows <= _SMALL)
        self._shard_sizes = [record.facts["shards"] for record in records]
        return True

    def fetch(self) -> None:
        """Fetch the shards of this round."""
        places = [(home, group) for home, shards in enumerate(self._shard_sizes) for group in range(len(shards))]
        specs = {
            self._name(f"{part:05d}"): DueShard(self.generation, *place, self.config)
            for part, place in enumerate(places)
        }
        if self.generation == 1 and not self._is_done(specs):
            self._check_dns(specs)
        self._fetched = self._run(specs, fetch, fetches=True, on_done=self._check_success)
        self._keep(self._fetched)
        self.kept += self._fetched.funnel(UNIT).kept

    def _check_dns(self, specs: dict[str, DueShard]) -> None:
        """Raise StageFailed if the DNS resolver fails on the hosts of some shards."""
        spread = list(specs.values())[:: -(-len(specs) // 16)]
        due = [read_due(self.context.store, spec.generation, spec.partition, spec.group) for spec in spread]
        preflight({host_of(one.url) for rows in due for _, one in rows}, self.config.web).check()

    def _check_success(self, record: ShardRecord) -> None:
        """Raise StageFailed if too few URLs get a response; the next run then repeats the failed shards."""
        assert record.funnel is not None
        failed = {reason: count for reason, count in record.funnel.dropped.items() if reason in _FAILURES}
        answered = record.funnel.entered - sum(failed.values())
        self._floor.add_shard(self.context.ledger, record.shard, answered, failed)

    def update(self) -> None:
        """Write the next generation of the frontier from this one and the links found."""
        self._floor.seal()
        fetched = [(record.shard, found_files(record), record.facts["found"]) for record in self._fetched]
        names = iter([name for name, *_ in fetched])
        shards_of = [tuple(next(names) for _ in shards) for shards in self._shard_sizes]
        found = tuple(path for _, paths, _ in fetched for path in paths)
        rows = self._rows + sum(count for *_, count in fetched)
        specs = {
            self._name(f"update-{partition:03d}"): Update(
                self.generation, partition, found, shards_of[partition], self.config
            )
            for partition in self._partitions
        }
        records = self._run(specs, update, small=rows <= _SMALL)
        self.context.store.delete(f"frontier/{self.generation:04d}")
        self.generation += 1
        self._rows = sum(record.facts["rows"] for record in records)
        self._ready = [{int(depth): count for depth, count in record.facts["ready"].items()} for record in records]
        waiting = sum(sum(ready.values()) for ready in self._ready)
        self.context.progress(
            self.kept, min(self.config.max_pages, self.kept + waiting), rounds=self.generation - 1, known=self._rows
        )

    def _check_kept(self, records: Records) -> None:
        """Raise StageFailed with the reasons if no page was kept; the next run then starts from the seeds."""
        if self.kept:
            return
        dropped: Counter[str] = Counter()
        details: Counter[tuple[str, str]] = Counter()
        for record in records:
            dropped.update(record.funnel.dropped if record.funnel else {})
            dropped.update(record.facts.get("failed", {}))
        if not dropped:
            return  # an empty list
        paths = (path for some in records.paths() for path in some)
        outcomes = (path for path in paths if path.endswith(".urls.parquet") or path.startswith("data/sitemaps-"))
        for path in islice(outcomes, _LOOK_AT):
            table = read_table(self.context.store, path, ["reason", "detail"])
            details.update(zip(table["reason"].to_pylist(), table["detail"].to_pylist(), strict=True))
        self.context.ledger.forget(*self.context.ledger.read())
        raise nothing_kept("addresses", dropped, details)

    def finish(self) -> Manifest:
        """Account for the URLs never fetched, delete the frontier and commit the artifact.

        Raises StageFailed if not one page was kept.
        """
        specs = {
            f"unvisited-{partition:03d}": Unvisited(self.generation, partition, self.config)
            for partition in self._partitions
        }
        self._keep(self._run(specs, unvisited, small=self._rows <= _SMALL))
        self.context.store.delete("frontier")
        self._check_kept(self._records)
        outside: Counter[str] = Counter()
        for record in self._records:
            outside.update(record.facts.get("links_outside", {}))
        return self.context.finish(
            self._records,
            metrics={"pages": float(self.kept), "rounds": float(self.generation - 1)},
            facts={"links_outside": dict(sorted(outside.items()))},
        )

    def _keep(self, records: Records) -> None:
        """Add ``records`` to those of the artifact, without their files of the frontier; thousands of them are packed
        as the manifest will have them."""
        lasting = (
            structs.replace(record, files=[file for file in record.files if file.path.startswith("data/")])
            for record in records
        )
        while some := list(islice(lasting, PIECE)):
            self._records = self._records.plus(some).packed()

    def _name(self, step: str) -> str:
        return f"{self.generation:04d}-{step}"

    def _run(
        self,
        specs: dict[str, Any],
        work: Callable[..., ShardRecord],
        *,
        small: bool = False,
        fetches: bool = False,
        on_done: Callable[[ShardRecord], None] | None = None,
    ) -> Records:
        """Run ``work`` on each of ``specs``, by name, unless committed; returns their records in order.

        ``small``: run in this process. ``fetches``: pass the rate limiter.
        """
        if self._is_done(specs):
            return self.context.ledger.tally(list(specs)).records()
        resumed, self._resumed = self._resumed, False  # nobody has come further
        if not small:
            work = partial(work, limiter=self.limiter) if fetches else work
            return run_shards(self.context, specs.items(), work, self.config.limits, on_done)
        known = self.context.ledger.read(specs) if resumed else {}
        for name, spec in specs.items():
            if name not in known:
                self.context.check()
                known[name] = work(spec, ShardOutput(self.context.store, name))
        return Records(self.context.store, rest=[known[name] for name in specs])

    def _is_done(self, specs: Collection[str]) -> bool:
        """True if an earlier attempt has committed these; of no steps there is nothing to do."""
        return not specs or (self._resumed and self.context.ledger.tally(list(specs)).done == len(specs))

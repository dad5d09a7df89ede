"""The steps of a crawl as its driver takes them: what to hand to whom, what came of it in numbers, what is committed.

No URL passes through here. Steps on small tables are done at once, with the same functions, since handing them to Ray's
workers would take longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from infra.run.context import Context, ShardOutput
from infra.run.manifest import Manifest, ShardRecord
from infra.schema import Drop
from pipelines.crawl.stage import Config, share
from pipelines.web.health import SuccessFloor

if TYPE_CHECKING:
    from pipelines.crawl.shard import DueShard
    from pipelines.web.politeness.actor import Link

__all__ = ["Rounds"]

_SMALL = 50_000  # URLs that are handled sooner by the driver itself than handed to Ray's workers
_FLOOR_URLS = 1000  # before it is judged how many get an answer
_FAILURES = frozenset({Drop.HTTP_ERROR, Drop.TIMEOUT, Drop.CONNECTION, Drop.HOST_DOWN, Drop.REFUSED, Drop.TRUNCATED})


class Rounds:
    """Where a crawl stands, in counts, and its steps. A step that is committed only gives its counts."""

    def __init__(self, config: Config, context: Context, stack: ExitStack) -> None:
        self.config, self.context, self._stack = config, context, stack
        self.kept = 0
        self.generation = 0  # of the frontier: as many as there were rounds, and one for what was injected
        self._partitions = range(config.partition_count)
        self._ready: list[dict[int, int]] = []
        self._rows = 0  # URLs in the frontier
        self._dealt: list[list[int]] = [[] for _ in self._partitions]  # URLs in each shard of each partition
        self._fetched: list[ShardRecord] = []  # in this round
        self._floor = SuccessFloor(config.min_success_share, _FLOOR_URLS)
        self._records: list[ShardRecord] = []
        self._committed = context.ledger.read()

    @cached_property
    def manners(self) -> Link:
        """The rate limiter's client, opened when the first request is due: a crawl that is done needs none."""
        from pipelines.web.politeness import actor as hosts

        return self._stack.enter_context(hosts.shared(self.config.web))

    def inject(self) -> None:
        from pipelines.crawl.sources import inject, sources

        near, far = sources(self.config)
        self._fetched = self._do(near, inject, small=True) + self._do(far, inject, polite=True)
        self._records += self._fetched

    def generate(self) -> bool:
        """Deal the next round; False if there is nothing to fetch."""
        from pipelines.crawl.frontier import Generate, generate

        counts = share(self._ready, min(self.config.round_size, self.config.max_pages - self.kept))
        if not any(counts):
            return False
        specs = {
            self._name(f"due-{partition:03d}"): Generate(
                self.generation, partition, count, sum(counts[:partition]), self.config
            )
            for partition, count in enumerate(counts)
        }
        records = self._do(specs, generate, small=self._rows <= _SMALL)
        self._dealt = [record.facts["shards"] for record in records]
        return True

    def fetch(self) -> None:
        from pipelines.crawl.shard import DueShard, fetch

        places = [(home, group) for home, shards in enumerate(self._dealt) for group in range(len(shards))]
        specs = {
            self._name(f"{part:05d}"): DueShard(self.generation, *place, self.config)
            for part, place in enumerate(places)
        }
        if self.generation == 1 and not self._committed.keys() >= specs.keys():
            self._look_ahead(specs)
        self._fetched = self._do(specs, fetch, polite=True, on_done=self._judge)
        self._records += self._fetched
        self.kept += sum(record.funnel.kept for record in self._fetched if record.funnel)

    def _look_ahead(self, specs: dict[str, DueShard]) -> None:
        """Do names resolve here at all? Raises StageFailed if it is the resolver that fails."""
        from pipelines.crawl.frontier_tables import read_due
        from pipelines.web.health import preflight
        from pipelines.web.urls import host_of

        spread = list(specs.values())[:: -(-len(specs) // 16)]
        due = [read_due(self.context.store, spec.generation, spec.partition, spec.group) for spec in spread]
        preflight({host_of(one.url) for rows in due for _, one in rows}, self.config.web).check()

    def _judge(self, record: ShardRecord) -> None:
        """Raises StageFailed if hardly anything answers. What the round lost to that is then fetched again by the next
        run."""
        assert record.funnel is not None
        failed = {reason: count for reason, count in record.funnel.dropped.items() if reason in _FAILURES}
        answered = record.funnel.entered - sum(failed.values())
        self._floor.judge(self.context.ledger, record.shard, answered, failed)

    def update(self) -> None:
        """Make the next generation of the frontier from this one and what was found."""
        from pipelines.crawl.frontier import Update, update
        from pipelines.crawl.frontier_tables import found_files

        self._floor.settle()
        names = iter([record.shard for record in self._fetched])
        mine = [tuple(next(names) for _ in shards) for shards in self._dealt]
        found = tuple(path for record in self._fetched for path in found_files(record))
        specs = {
            self._name(f"update-{partition:03d}"): Update(
                self.generation, partition, found, mine[partition], self.config
            )
            for partition in self._partitions
        }
        rows = self._rows + sum(record.facts["found"] for record in self._fetched)
        records = self._do(specs, update, small=rows <= _SMALL)
        self.context.store.delete(f"frontier/{self.generation:04d}")
        self.generation += 1
        self._rows = sum(record.facts["rows"] for record in records)
        self._ready = [{int(depth): count for depth, count in record.facts["ready"].items()} for record in records]
        waiting = sum(sum(ready.values()) for ready in self._ready)
        self.context.progress(
            self.kept, min(self.config.max_pages, self.kept + waiting), rounds=self.generation - 1, known=self._rows
        )

    def finish(self) -> Manifest:
        from pipelines.crawl.frontier import Unvisited, unvisited

        specs = {
            f"unvisited-{partition:03d}": Unvisited(self.generation, partition, self.config)
            for partition in self._partitions
        }
        records = self._records + self._do(specs, unvisited, small=self._rows <= _SMALL)
        self.context.store.delete("frontier")
        outside: Counter[str] = Counter()
        for record in records:
            outside.update(record.facts.get("links_outside", {}))
        lasting = [
            record.model_copy(update={"files": [file for file in record.files if file.path.startswith("data/")]})
            for record in records
        ]
        return self.context.finish(
            lasting,
            metrics={"pages": float(self.kept), "rounds": float(self.generation - 1)},
            facts={"links_outside": dict(sorted(outside.items()))},
        )

    def _name(self, step: str) -> str:
        return f"{self.generation:04d}-{step}"

    def _do(
        self,
        specs: dict[str, Any],
        work: Callable[..., ShardRecord],
        *,
        small: bool = False,
        polite: bool = False,
        on_done: Callable[[ShardRecord], None] | None = None,
    ) -> list[ShardRecord]:
        """``work`` on each of ``specs`` by name, unless committed. What is small is done here, sooner than Ray could;
        who is polite is given the manners."""
        due = [(name, spec) for name, spec in specs.items() if name not in self._committed]
        if small:
            for name, spec in due:
                self.context.check()
                self._committed[name] = work(spec, ShardOutput(self.context.store, name))
        elif due:
            from infra.cluster import Limits, run_shards

            work = partial(work, manners=self.manners) if polite else work
            done = run_shards(self.context, due, work, Limits(attempts=self.config.attempts), on_done)
            self._committed |= {record.shard: record for record in done}
        return [self._committed.pop(name) for name in specs]

"""The steps of sharding: gather the samples into sorted runs, number them, write the shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from infra.exchange import Exchange, Task, parts_of
from infra.formats.shards import shard_name
from infra.run.context import Context
from infra.run.manifest import Manifest
from pipelines.curate.shard.config import Config
from pipelines.curate.shard.figures import draw_figures
from pipelines.curate.shard.gather import RUNS, Parts, Sample, gather
from pipelines.curate.shard.ranks import Writers, count, number
from pipelines.curate.shard.write import write_shards

__all__ = ["write_all"]

_SMALL = 5_000  # rows that need no cluster
_REFERENCES = 250_000  # of a part
_ROWS = 10_000  # that a task writes, about


def write_all(
    config: Config,
    lots: Sequence[Any],
    read: Callable[[Task], Iterator[Sample]],
    total: int,
    context: Context,
    before: Callable[[Exchange], Sequence[str]] | None = None,
) -> Manifest:
    """Write what ``read`` finds in each of ``lots``, of ``total`` rows at most, as training shards and a holdout.

    ``before``: earlier steps of the exchange, which return the streams that ``read`` receives.
    """
    exchange = Exchange(context, config.limits, here=total <= _SMALL)
    receives = before(exchange) if before else []
    fraction = config.holdout_fraction
    parts = Parts(*(parts_of(round(total * share), _REFERENCES) for share in (1 - fraction, fraction)))
    work = partial(gather, config, read, parts)
    gathered = exchange.step("gather", lots, work, receives=receives, sends={"samples": sum(parts)})
    counted = exchange.step("count", range(sum(parts)), count, receives=["samples"], sends={"counted": sum(parts)})

    # Numbers of samples, all that the driver sees: they say where each part begins.
    counts = [record.facts["samples"] for record in counted]
    train, holdout = counts[: parts.train], counts[parts.train :]
    starts = [end - size for side in (train, holdout) for end, size in zip(accumulate(side), side, strict=True)]
    size = config.samples_per_shard
    writers = Writers(size, max(1, _ROWS // size), sum(train), sum(holdout))
    tasks = writers.firsts
    records = gathered
    if tasks:
        exchange.step("number", starts, partial(number, writers), receives=["counted"], sends={"places": len(tasks)})
        records = gathered.plus(exchange.step("write", tasks, partial(write_shards, size), receives=["places"]))
    exchange.close()
    context.store.delete(RUNS)

    # The small files that readers of the two formats look for.
    sizes = _sizes(writers.train, size)
    context.output.write("data/train/sizes.json", json.dumps(sizes, indent=1).encode())
    context.output.write("data/holdout/dataset_type.txt", b"retrieval")
    context.output.write("data/holdout/test/nshards.txt", str(-(-writers.holdout // size)).encode())
    draw_figures(context, writers.train, writers.holdout)
    of_rows = [(record.facts["held_out"], record.facts["repeated"]) for record in gathered]
    held_out, repeated = (sum(counts) for counts in zip(*of_rows, strict=True))
    facts = {"train": writers.train, "holdout": writers.holdout, "holdout_captions": held_out}
    facts |= {"repeated": repeated} if repeated else {}
    return context.finish(records, facts=facts)


def _sizes(samples: int, per_shard: int) -> dict[str, int]:
    """Samples of each training tar."""
    starts = range(0, samples, per_shard)
    return {f"{shard_name(n)}.tar": min(per_shard, samples - start) for n, start in enumerate(starts)}

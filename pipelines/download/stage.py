"""From pairs of URL and caption to shards of images: fetched, checked, resized, in img2dataset's layout.

Every row attempted is in the shard's Parquet with its outcome, so it is always known why an image is missing; the tar
holds the successes in the order of the rows, whatever order the servers answered in.

With ``retry`` the input is earlier downloads instead, and the rows are those of them that failed for such a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from infra.cluster import run_batches, slots
from infra.formats.shards import shard_name
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from infra.run.pieces import Records
from pipelines.download.config import Config
from pipelines.download.hosts import host, worst
from pipelines.download.progress import Progress
from pipelines.layout import Images, Slice, chunk_rows, kept_files
from pipelines.web.health import nothing_kept, preflight

if TYPE_CHECKING:
    from infra.store import Store
    from pipelines.download.retry import Pick
    from pipelines.download.shard import Work

__all__ = ["run"]

_BATCH = 64  # shards of one task, at most: a larger batch waits less often for its last rows alone
_LOOK_AT = 16  # shards whose hosts are resolved before the start


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``pairs``, or with ``retry`` earlier ``images`` -> ``data/{shard}.tar``, ``.parquet``, ``_stats.json``.

    Raises StageFailed if not one image could be downloaded, unless ``min_success_share`` is 0 or it is a retry.
    """
    from pipelines.download.shard import Work, work
    from pipelines.web.politeness.actor import shared_limiter

    shards, source = _shards(config, inputs)
    left = set(context.ledger.tally([shard_name(number) for number, _ in shards]).left())
    rows = sum(_rows(part) for _, parts in shards for part in parts)
    progress = Progress(config, context, rows, context.ledger.each())
    with shared_limiter(config.web) as limiter:
        common = Work(config, source, limiter)
        _check_names(common, [parts for place, (_, parts) in enumerate(shards) if place in left])
        records = run_batches(
            context,
            [(shard_name(number), (number, parts)) for number, parts in shards],
            partial(work, common),
            config.limits,
            on_done=progress.add,
            size=max(1, min(_BATCH, -(-len(shards) // slots(config.limits)))),
        )
    return _finish(config, records, context)


def _shards(config: Config, inputs: Mapping[str, Artifact]) -> tuple[list[tuple[int, Any]], Store | Images]:
    """Number and rows of each shard, and where the rows are."""
    if config.retry:
        from pipelines.download.retry import rows_to_retry

        return rows_to_retry(inputs, config.retry, config.samples_per_shard), Images.of(inputs)
    pairs = inputs["pairs"]
    return list(enumerate(chunk_rows(kept_files(pairs), config.samples_per_shard))), pairs.store


def _rows(part: Slice | Pick) -> int:
    return part.rows if isinstance(part, Slice) else len(part.rows)


def _check_names(common: Work, shards: list[Any]) -> None:
    """Raise StageFailed if the host names of some shards, spread over all, do not resolve here."""
    spread = shards[:: -(-len(shards) // _LOOK_AT) or 1]
    names = {host(url) for parts in spread for url in common.rows(parts)["url"].to_pylist()}
    preflight(names - {""}, common.config.web).check()


def _finish(config: Config, records: Records, context: Context) -> Manifest:
    from pipelines.curate import gallery

    total = records.funnel("pairs")
    if total.entered and not total.kept and config.min_success_share and not config.retry:
        context.ledger.forget(*(record.shard for record in records))  # the next run repeats them
        raise nothing_kept("pairs", total.dropped, {})
    gallery.of_downloads(context, records)
    failing: Counter[str] = Counter()
    for record in records:
        failing.update(record.facts["failing_hosts"])
    facts = {"bytes": sum(record.facts["bytes"] for record in records), "failing_hosts": worst(failing)}
    share = total.kept / total.entered if total.entered else 0.0
    return context.finish(records, funnel=total, metrics={"success_share": share}, facts=facts)

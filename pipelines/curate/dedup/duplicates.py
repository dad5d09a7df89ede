"""The steps of dedup over the exchange, from the signatures of all rows to a selection without duplicates."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from infra.exchange import Exchange, parts_of
from infra.run.context import Context
from infra.run.pieces import Records
from infra.schema import Drop
from infra.store import Store
from pipelines.curate.dedup import leaders, pairs, verdicts
from pipelines.curate.dedup.clusters import find_clusters
from pipelines.curate.dedup.config import Config
from pipelines.curate.dedup.files import send_equal, send_same_urls
from pipelines.curate.dedup.homes import Homes
from pipelines.curate.dedup.keys import FEW, MOST
from pipelines.curate.dedup.looks import entries, searches, send_entries
from pipelines.curate.dedup.rows import send_rows, with_phash
from pipelines.curate.dedup.writing import write_kept

__all__ = ["drop_duplicates"]

log = logging.getLogger(__name__)

_SMALL = 20_000  # rows that need no cluster
_ROWS = 250_000  # of a home
_KEYS = 1_000_000  # of a part of the files or looks, each of which becomes several entries
_ENTRIES = 2_000_000  # of a part of the search: 25 bytes each

Shards = Sequence[tuple[int, str, int]]  # number, path of the selection's table, rows


def drop_duplicates(
    config: Config, selection: Store, shards: Shards, context: Context
) -> tuple[Records, dict[str, Any]]:
    """Write the selection without duplicates; the records of its homes, and facts about the search."""
    total = sum(rows for *_, rows in shards)
    homes, lots = Homes.lots(shards, _ROWS)
    exchange = Exchange(context, config.limits, here=total <= _SMALL)
    parts = parts_of(total * (MOST if config.crops else FEW), _KEYS)
    first = "urls" if config.urls else "files"
    exchange.step("rows", lots, partial(send_rows, config, selection, parts), sends={first: parts})
    if config.urls:
        work = partial(send_same_urls, config, homes, parts)
        sends = {"same-url": homes.count, "edges-of-urls": homes.count, "files": parts}
        exchange.step("urls", range(parts), work, receives=["urls"], sends=sends)
    sends = {"equal": homes.count, "edges-of-files": homes.count} | ({"images": parts} if config.near else {})
    work = partial(send_equal, config, homes, parts)
    exchange.step("files", range(parts), work, receives=["files"], sends=sends)
    facts: dict[str, Any] = {}
    known, edges = [], [*(["edges-of-urls"] if config.urls else []), "edges-of-files"]
    if config.near:
        facts = _near(config, selection, exchange, homes, lots, total, parts)
        known, edges = ["known"], [*edges, "edges-of-looks", "edges-of-pairs"]
    facts["largest_cluster"] = find_clusters(exchange, homes, selection, lots, edges)
    last = "of-files" if config.urls else "verdicts"
    work = partial(verdicts.follow, selection, homes, "equal", "known", last)
    exchange.step("equal", lots, work, receives=["equal", *known], sends={last: homes.count})
    if config.urls:
        work = partial(verdicts.follow, selection, homes, "same-url", last, "verdicts")
        exchange.step("same-url", lots, work, receives=["same-url", last], sends={"verdicts": homes.count})
    records, more = write_kept(exchange, config, selection, homes, lots, with_phash, "cluster")
    exchange.close()
    return records, facts | more


def _near(
    config: Config,
    selection: Store,
    exchange: Exchange,
    homes: Homes,
    lots: Sequence[Sequence[tuple[int, str]]],
    images: int,
    looks: int,
) -> dict[str, Any]:
    """Find near duplicates, and who stays of them: stream ``known``, to the rows' homes. Facts about the search.

    ``looks``: number of receivers of the stream ``images``.
    """
    wanted = searches(config, images)
    buckets = parts_of(entries(wanted, images), _ENTRIES)
    work = partial(send_entries, config, homes, wanted, buckets)
    sends = {"looks": homes.count, "edges-of-looks": homes.count, "entries": buckets}
    exchange.step("looks", range(looks), work, receives=["images"], sends=sends)
    work = partial(pairs.find_pairs, config, homes, wanted)
    found = exchange.step("pairs", range(buckets), work, receives=["entries"], sends={"candidates": homes.count})
    facts: dict[str, Any] = {"candidates": sum(record.facts["candidates"] for record in found)}
    if oversized := sum(record.facts["oversized"] for record in found):
        largest = max(record.facts["largest"] for record in found)
        facts |= {"oversized_buckets": oversized, "largest_bucket": largest}
        log.warning(
            "near duplicates may be missed: %d buckets of similar hashes hold more than dedup.max_bucket=%d images, "
            "the largest %d",
            *(oversized, config.max_bucket, largest),
        )
    exchange.step(
        "first", lots, partial(pairs.attach_first, homes), receives=["candidates"], sends={"half": homes.count}
    )
    parts = parts_of(images, leaders.FEW)
    same = {f"same-{kind}": parts for kind in leaders.KINDS}
    work = partial(pairs.confirm, config, homes, parts)
    sends = same | {"edges-of-pairs": homes.count}
    confirmed = exchange.step("second", lots, work, receives=["half"], sends=sends)
    facts["pairs"] = sum(record.facts["pairs"] for record in confirmed)
    near = leaders.rounds(exchange, homes, parts, list(same))
    work = partial(verdicts.name_originals, selection, homes, near, Drop.NEAR_DUPLICATE.value)
    exchange.step("originals", lots, work, receives=near, sends={"named": homes.count})
    work = partial(verdicts.follow, selection, homes, "looks", "named", "known")
    exchange.step("same-look", lots, work, receives=["looks", "named"], sends={"known": homes.count})
    return facts

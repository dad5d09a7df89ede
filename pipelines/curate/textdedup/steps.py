"""The steps of textdedup over the exchange, from the texts of all rows to a selection without those that are alike."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from infra.exchange import Exchange, parts_of
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from infra.schema import Drop
from infra.store import Store
from pipelines.curate.dedup import leaders, verdicts
from pipelines.curate.dedup.clusters import find_clusters
from pipelines.curate.dedup.figures import draw_figures
from pipelines.curate.dedup.homes import Homes
from pipelines.curate.dedup.writing import write_kept
from pipelines.curate.textdedup import work
from pipelines.curate.textdedup.config import Config
from pipelines.curate.textdedup.minhash import Bands
from pipelines.layout import Images, counted_shards, funnel

__all__ = ["write_selection"]

log = logging.getLogger(__name__)

_SMALL = 5_000  # rows that need no cluster
_ROWS = 250_000  # of a home, and of a part of the texts
_ENTRIES = 2_000_000  # of a part of the search: 36 bytes each


def write_selection(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Choose among the rows of ``selection`` in the steps of an exchange, and write those that stay."""
    images, selection = Images.of(inputs), inputs["selection"].store
    shards = counted_shards({"selection": inputs["selection"]})
    if not shards:
        return context.finish([], funnel=funnel("images", []))
    total = sum(rows for *_, rows in shards)
    homes, lots = Homes.lots(shards, _ROWS)
    exchange = Exchange(context, config.limits, here=total <= _SMALL)

    # Equal texts; then pairs that share a band, compared at home.
    bands, parts = Bands.of(config.threshold, config.missed), parts_of(total, _ROWS)
    buckets = parts_of(total * bands.count, _ENTRIES)
    step = partial(work.send_texts, config, selection, bands, parts)
    exchange.step("texts", lots, step, sends={"texts": parts})
    sends = {"same-text": homes.count, "edges-of-texts": homes.count, "entries": buckets}
    exchange.step("bands", range(parts), partial(work.send_bands, homes, buckets), receives=["texts"], sends=sends)
    step = partial(work.find_pairs, config, homes, bands)
    found = exchange.step("pairs", range(buckets), step, receives=["entries"], sends={"candidates": homes.count})
    step = partial(work.attach_first, homes)
    exchange.step("first", lots, step, receives=["candidates"], sends={"half": homes.count})
    pairs_parts = parts_of(total, leaders.FEW)
    same = {f"same-{kind}": pairs_parts for kind in leaders.KINDS}
    step = partial(work.confirm, config, homes, pairs_parts)
    confirmed = exchange.step("second", lots, step, receives=["half"], sends=same | {"edges-of-pairs": homes.count})

    # Who stays, and instead of whom; then the selection.
    near = leaders.rounds(exchange, homes, pairs_parts, list(same))
    step = partial(verdicts.name_originals, selection, homes, near, Drop.NEAR_DUPLICATE_TEXT.value)
    exchange.step("originals", lots, step, receives=near, sends={"named": homes.count})
    step = partial(verdicts.follow, selection, homes, "same-text", "named", "verdicts")
    exchange.step("same-text", lots, step, receives=["same-text", "named"], sends={"verdicts": homes.count})
    largest = find_clusters(exchange, homes, selection, lots, ["edges-of-texts", "edges-of-pairs"])
    records, facts = write_kept(exchange, config, selection, homes, lots, _as_they_are, "text_cluster")
    exchange.close()
    context.store.delete(work.SCRATCH)

    draw_figures(context, images, selection, shards, records, drop=config.drop)
    facts |= {
        "bands": bands.count,
        "numbers_of_a_band": bands.rows,
        "candidates": sum(record.facts["candidates"] for record in found),
        "pairs": sum(record.facts["pairs"] for record in confirmed),
        "largest_cluster": largest,
    }
    return context.finish(records, facts=facts | _oversized(config, found))


def _as_they_are(store: Store, shard: int, rows: Any) -> tuple[Any, list[str | None]]:  # noqa: ANN401 - a pyarrow.Table
    """``rows``, none of which goes but by a verdict."""
    return rows, [None] * rows.num_rows


def _oversized(config: Config, found: Any) -> dict[str, Any]:  # noqa: ANN401 - records
    """Facts about buckets of which not all texts were compared, if there are any."""
    oversized = sum(record.facts["oversized"] for record in found)
    if not oversized:
        return {}
    largest = max(record.facts["largest"] for record in found)
    log.warning(
        "texts that are alike may be missed: %d buckets hold more than textdedup.max_bucket=%d, the largest %d",
        *(oversized, config.max_bucket, largest),
    )
    return {"oversized_buckets": oversized, "largest_bucket": largest}

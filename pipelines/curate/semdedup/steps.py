"""The steps of SemDeDup: centroids of a sample, rows to their clusters, the most similar row before each, verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from infra.exchange import Exchange, parts_of
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate.dedup.homes import Homes
from pipelines.curate.joining import joined_inputs
from pipelines.curate.semdedup import clusters, figures, work
from pipelines.curate.semdedup.config import Config
from pipelines.layout import counted_shards, funnel

__all__ = ["write_selection"]

_SMALL = 5_000  # rows that need no cluster
_ROWS = 50_000  # of a task, whose vectors it holds at once
_CLUSTER, _MOST = 2_000, 50_000  # rows of a cluster, and clusters, about
_LEARNED, _LEAST = 64, 20_000  # rows of the sample for each cluster, and in all


def write_selection(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Choose among the rows of ``inputs`` in the steps of an exchange, and write the selection."""
    shards = counted_shards(inputs)
    total = sum(count for *_, count in shards)
    if not shards:
        return context.finish([], funnel=funnel("images", []))
    homes, lots = Homes.lots(shards, _ROWS)
    parts = parts_of(total, _ROWS)
    count = config.clusters or min(parts_of(total, _CLUSTER), _MOST)
    exchange = Exchange(context, config.limits, here=total <= _SMALL)

    with joined_inputs(context, config.limits, inputs, ["embeddings"], config.embedding) as found:
        # Clusters, of a sample; then each row to its cluster's part.
        share = min(1.0, max(_LEARNED * count, _LEAST) / max(total, 1))
        step = partial(clusters.send_sample, config, found, share)
        exchange.step("sample", lots, step, sends={"sample": 1})
        (learnt,) = exchange.step("centroids", [count], partial(clusters.learn, config, share), receives=["sample"])
        step = partial(clusters.assign, config, found, parts)
        exchange.step("assign", lots, step, sends={"members": parts})

        # The most similar row before each; the limit; who goes; and back home.
        sends = {"similar": parts, "counts": 1}
        compared = exchange.step(
            "compare", range(parts), partial(work.compare, config), receives=["members"], sends=sends
        )
        (limit,) = exchange.step("limit", [None], partial(work.find_limit, config), receives=["counts"])
        step = partial(work.decide, homes, limit.facts["limit"])
        exchange.step("decide", range(parts), step, receives=["similar"], sends={"verdicts": homes.count})
        records = exchange.step("selection", lots, partial(work.write_shards, found), receives=["verdicts"])
    exchange.close()
    context.store.delete(clusters.CENTROIDS)

    figures.draw(context, inputs, shards, records, limit.facts)
    facts = {
        "clusters": learnt.facts["clusters"],
        "epsilon": 1 - limit.facts["limit"],
        "largest_cluster": max(record.facts["largest"] for record in compared),
        "oversized_clusters": sum(record.facts["oversized"] for record in compared),
    }
    return context.finish(records, facts=facts)

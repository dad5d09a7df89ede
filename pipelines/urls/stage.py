"""Read URL lists as others publish them (img2dataset's inputs, LAION, COYO, DataComp) as pairs for ``download``.

Lists come as csv, tsv, json, jsonl, txt (also gzipped) and Parquet, with a dozen names for the same two columns, and
with bad lines in them. A list is read twice and never held in memory: first for the types of its columns, which only
the whole list tells (Parquet has them in its footers, and a txt has but one), then for its rows. Rows that cannot be
pairs are dropped with a reason; all other columns of the list are kept.

Files: ``data/{file}-{part}.parquet`` (:func:`infra.schema.pairs_schema`, then the list's own columns; no ``caption``
for a list without captions), ``data/dropped-{file}-{part}.parquet`` with the position and content of each dropped row.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from infra.cluster import run_shards
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.urls.config import Config
from pipelines.urls.files import list_files

__all__ = ["Config", "run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Convert the list. Inputs ``list``, ``list_2``, ...: its files, adopted. Funnel: rows of the list -> pairs."""
    from pipelines.urls import shard

    files = list_files(config.given("list", inputs), config.input_format)
    # First reading: the types of the columns, and which of them hold URLs and captions.
    surveys = run_shards(
        context,
        [(f"survey-{number:05d}", file) for number, file in enumerate(files)],
        shard.survey,
        config.limits,
    )
    schema = shard.common_schema(surveys)
    plan = shard.plan(schema, config, uids=shard.has_uids(files, schema))
    # Second reading: the rows.
    parts = [
        part for number, (file, record) in enumerate(zip(files, surveys, strict=True))
        for part in shard.parts(number, file, record)
    ]  # fmt: skip
    records = run_shards(
        context, [(part.name, part) for part in parts], partial(shard.write_pairs, plan), config.limits
    )
    facts = {"files": len(files), "url_col": plan.url, "caption_col": plan.caption}
    return context.finish(records, funnel=shard.total(records), facts=facts)

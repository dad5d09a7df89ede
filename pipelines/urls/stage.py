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
from infra.events import Log
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.urls.config import Config
from pipelines.urls.files import list_files

__all__ = ["Config", "run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Convert the list. Inputs ``list``, ``list_2``, ...: its files, adopted. Funnel: rows of the list -> pairs."""
    from pipelines.urls import plan, shard, summary

    files = list_files(config.given("list", inputs), config.input_format)
    # First reading: how each file is written, the types of its columns, and which of them hold URLs and captions.
    surveys = run_shards(
        context,
        [(f"survey-{number:05d}", file) for number, file in enumerate(files)],
        partial(shard.survey, config),
        config.limits,
    )
    for message in summary.report(files, surveys):
        context.send(Log(stage=context.stage, level="INFO", logger=__name__, message=message))
    columns = plan.columns_of(files, surveys, config)
    pairs_plan = plan.plan(files, surveys, columns, config)
    # Second reading: the rows.
    parts = [
        part
        for number, (file, record, own) in enumerate(zip(files, surveys, columns, strict=True))
        if own
        for part in shard.parts(number, file, record, own)
    ]
    records = run_shards(
        context, [(part.name, part) for part in parts], partial(shard.write_pairs, pairs_plan), config.limits
    )
    facts = summary.facts(surveys, columns, records)
    return context.finish(records, funnel=records.funnel("rows"), facts=facts)

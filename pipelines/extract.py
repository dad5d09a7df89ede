"""Find the pictures of stored pages and the texts that go with them: WARC in, pairs out.

Each WARC file is a shard. What makes a pair a duplicate is known only when all are read, so the work has two steps:
*candidates* reads pages into a scratch table per file; *pairs* writes what is left of it, once the driver has seen the
ids of all. Kept are the first of equal pairs, in the order of files and of pages in them.

Files: ``data/pairs-{n}.parquet`` (:func:`infra.schema.pairs_schema`), ``data/dropped-{n}.parquet`` the same columns and
``reason``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from infra.config import Config as BaseConfig
from infra.config import Runtime
from infra.context import Context
from infra.errors import DataError
from infra.manifest import Artifact, Manifest

__all__ = ["Config", "run"]

SCRATCH = "scratch"


class Config(BaseConfig):
    """Which texts to take and what to respect."""

    sources: tuple[Literal["alt", "figcaption", "title", "og"], ...] = Field(
        ("alt", "figcaption", "title", "og"), min_length=1, description="where texts may come from, best first"
    )
    max_caption: int = Field(2000, gt=0, description="characters after which a text is cut")
    max_page_bytes: int = Field(4 << 20, gt=0, description="larger pages are left out, bytes")
    obey_opt_out: bool = Field(
        True, description="drop the pictures of pages whose headers or meta tags keep them from AI use"
    )
    agent: str = Field("clipline", description="the name under which pages may address us")
    attempts: Runtime[int] = Field(3, gt=0, description="attempts per shard when a worker is lost")


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Input ``pages``: an artifact with WARC files. Funnel: candidates -> pairs."""
    from infra.cluster import Limits, run_shards
    from pipelines.extract_shard import Pages, Pairs, find_candidates, find_duplicates, write_pairs

    pages = inputs["pages"]
    files = [file.path for suffix in (".warc.gz", ".warc") for file in pages.files("data/", suffix)]
    if not files:
        raise DataError(f"{pages.manifest.name} holds no WARC files", expected="data/*.warc.gz")
    limits = Limits(attempts=config.attempts)
    names = [f"{number:05d}" for number in range(len(files))]
    found = run_shards(
        context,
        [
            (f"candidates-{name}", Pages(name, pages.store, path, config))
            for name, path in zip(names, files, strict=True)
        ],
        find_candidates,
        limits,
    )
    committed = context.ledger.read()
    if all(f"pairs-{name}" in committed for name in names):
        records = [committed[f"pairs-{name}"] for name in names]
    else:
        duplicates = find_duplicates(context.store, names)
        shards = [(f"pairs-{name}", Pairs(name, rows)) for name, rows in zip(names, duplicates, strict=True)]
        records = run_shards(context, shards, write_pairs, limits)
    context.store.delete(SCRATCH)
    facts = {
        fact: sum(record.facts[fact] for record in found) for fact in ("pages", "damaged_records", "other_records")
    }
    manifest = context.finish(records, facts=facts)
    return manifest

"""Find the pictures of stored pages and the texts that go with them: WARC or WAT in, pairs out.

Each file is a shard. What makes a pair a duplicate is known only when all are read, so the work has three steps:
*candidates* reads pages into a scratch table per file and notes the ids of its pairs by partition; *duplicates* finds,
for one partition of ids, those that occurred before; *pairs* writes what is left. Kept are the first of equal pairs, in
the order of files and of pages in them.

Files: ``data/pairs-{n}.parquet`` (:func:`infra.schema.pairs_schema`), ``data/dropped-{n}.parquet`` the same columns and
``reason``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from infra.config import Input, Runtime, StageConfig
from infra.errors import ConfigError, DataError
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest

__all__ = ["Config", "run"]

SCRATCH = "scratch"
FACTS = ("pages", "cut_pages", "damaged_records", "other_records")
_FILES_PER_PARTITION = 50  # so that a partition's ids, those of 50 files, fit into memory however many files there are
_MAX_PARTITIONS = 1024


class Config(StageConfig):
    """Where pages come from, which texts to take and what to respect."""

    inputs: ClassVar[Mapping[str, Input]] = {
        "pages": Input("pages", required=False),
    }
    produces: ClassVar[tuple[str, ...]] = ("pairs",)

    code_version: ClassVar[int] = 4

    paths: tuple[str, ...] = Field(
        (),
        description="WARC or WAT files to read instead of a crawl: local paths, s3:// or https:// addresses, patterns "
        "with *, or lists of such (*.paths, *.paths.gz, *.txt)",
    )
    prefix: str = Field(
        "", description="goes before relative paths, given and listed, e.g. https://data.commoncrawl.org/"
    )
    max_files: int | None = Field(None, gt=0, description="read the first of the files only, number")
    sources: tuple[Literal["alt", "figcaption", "title", "og", "twitter", "json-ld"], ...] = Field(
        ("alt", "figcaption", "title", "og", "twitter", "json-ld"),
        min_length=1,
        description="where texts may come from, best first; WAT files know alt, title, og and twitter",
    )
    max_caption: int = Field(2000, gt=0, description="characters after which a text is cut")
    context: int = Field(
        0, ge=0, description="characters of heading and paragraph next to an image to keep as its context; 0: none"
    )
    max_page_bytes: int = Field(4 << 20, gt=0, description="larger pages are left out, bytes")
    obey_opt_out: bool = Field(
        True, description="drop the pictures of pages whose headers or meta tags keep them from AI use"
    )
    agent: str = Field("clipline", description="the name under which pages may address us")
    attempts: Runtime[int] = Field(3, gt=0, description="attempts per shard when a worker or the network is lost")


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Input ``pages``, unless ``paths`` are given: an artifact with WARC files. Funnel: candidates -> pairs."""
    from infra.cluster import Limits, run_shards
    from pipelines.extract.shard import Ids, Pages, Pairs, find_candidates, find_duplicates, write_pairs

    files = _files(config, inputs)
    _same_as_before(context, files)
    limits = Limits(attempts=config.attempts)
    names = [f"{number:05d}" for number in range(len(files))]
    partitions = min(_MAX_PARTITIONS, -(-len(files) // _FILES_PER_PARTITION))

    pages = [Pages(name, path, partitions, config) for name, path in zip(names, files, strict=True)]
    found = run_shards(context, [(f"candidates-{shard.name}", shard) for shard in pages], find_candidates, limits)
    pairs = [(f"pairs-{name}", Pairs(number, name, partitions)) for number, name in enumerate(names)]
    committed = context.ledger.read([name for name, _ in pairs])
    if len(committed) < len(pairs):
        ids = [(f"duplicates-{number:04d}", Ids(number, names)) for number in range(partitions)]
        run_shards(context, ids, find_duplicates, limits)
    records = run_shards(context, pairs, write_pairs, limits)
    context.store.delete(SCRATCH)
    facts = {fact: sum(record.facts[fact] for record in found) for fact in FACTS}
    return context.finish(records, facts={"files": len(files), **facts})


def _files(config: Config, inputs: Mapping[str, Artifact]) -> list[str]:
    """Paths or addresses of the archives to read."""
    from pipelines.formats.archives import find

    if config.paths and "pages" in inputs:
        raise ConfigError("extract has both paths and an artifact with pages to read", fix="give it one of them")
    if config.paths:
        return find(config.paths, config.prefix, config.max_files)
    if "pages" not in inputs:
        raise ConfigError("extract has nothing to read", fix="set extract.paths, or give it the pages of a crawl")
    pages = inputs["pages"]
    files = [pages.url(file.path) for suffix in (".warc.gz", ".warc") for file in pages.files("data/", suffix)]
    if not files:
        raise DataError(f"{pages.manifest.name} holds no WARC files", expected="data/*.warc.gz")
    return files[: config.max_files]


def _same_as_before(context: Context, files: list[str]) -> None:
    """A list on the web may have changed since this extraction began; shards of two lists must not mix."""
    path = f"{SCRATCH}/files.txt"
    text = "\n".join(file.rpartition("/")[2] for file in files).encode()
    if not context.store.exists(path):
        if not context.ledger.read(["candidates-00000"]):
            context.store.write(path, text)
    elif context.store.read(path) != text:
        raise DataError(
            "the files to extract from are not those this extraction began with",
            expected=f"{len(context.store.read(path).splitlines())} files as before",
            found=f"{len(files)} files",
            fix="run again with --force extract",
        )

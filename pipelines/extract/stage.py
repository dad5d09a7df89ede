"""Extract image-text pairs from stored pages: WARC, ARC or WAT in, pairs out.

Each file is a shard. Duplicate pairs are known only when all files are read, so the work has three steps: *candidates*
reads pages into a scratch table per file and notes the ids of its pairs by partition; *duplicates* finds, for one
partition of ids, those that occurred before; *pairs* writes what is left. Of equal pairs the first is kept, in the
order of files and of pages in them.

Files: ``data/pairs-{n}.parquet`` (:func:`infra.schema.pairs_schema`), ``data/dropped-{n}.parquet`` the same columns and
``reason``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from infra.cluster import run_shards
from infra.errors import DataError
from infra.rows import FACT, total
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.extract.config import Config
from pipelines.formats.archives import listed

__all__ = ["Config", "run"]

log = logging.getLogger(__name__)

_DAMAGED_SHARE = 0.1  # of the records, beyond which a success is suspect
_FILES_PER_PARTITION = 50  # so that a partition's ids, those of 50 files, fit into memory however many files there are
_MAX_PARTITIONS = 1024


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Extract pairs. Inputs ``pages``: crawls or adopted archives; ``archive_list``: adopted lists of archives.

    Funnel: candidates -> pairs. Raises UsageError or DataError if there is nothing to read.
    """
    from pipelines.extract.shard import (
        DAMAGED,
        PAGE,
        SCRATCH,
        Ids,
        Pages,
        Pairs,
        find_candidates,
        find_duplicates,
        write_pairs,
    )

    files = _files(config, inputs)
    _check_unchanged(context, files, f"{SCRATCH}/files.txt")
    names = [f"{number:05d}" for number in range(len(files))]
    partitions = min(_MAX_PARTITIONS, -(-len(files) // _FILES_PER_PARTITION))

    pages = [Pages(name, path, partitions, config) for name, path in zip(names, files, strict=True)]
    found = run_shards(
        context, [(f"candidates-{shard.name}", shard) for shard in pages], find_candidates, config.limits
    )
    pairs = [(f"pairs-{name}", Pairs(number, name, partitions)) for number, name in enumerate(names)]
    if context.ledger.tally([name for name, _ in pairs]).done < len(pairs):
        ids = [(f"duplicates-{number:04d}", Ids(number, names)) for number in range(partitions)]
        run_shards(context, ids, find_duplicates, config.limits)
    records = run_shards(context, pairs, write_pairs, config.limits)
    context.store.delete(SCRATCH)
    counts = sum((Counter(record.facts["records"]) for record in found), Counter[str]())
    _warn(counts, damaged=counts[DAMAGED], pages=counts[PAGE])
    cut = sum(record.facts["cut_pages"] for record in found)
    facts = {"files": len(files), "cut_pages": cut, "records": dict(sorted(counts.items()))}
    if errors := total(found):
        facts[FACT] = errors
    return context.finish(records, facts=facts)


def _warn(counts: Counter[str], *, damaged: int, pages: int) -> None:
    """Warn of archives of which little could be used. ``counts``: their records, by what became of them."""
    listed = ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common())
    if damaged > _DAMAGED_SHARE * counts.total():
        log.warning("%d of %d records are damaged: %s", damaged, counts.total(), listed)
    elif counts and not pages:
        log.warning("none of %d records is an HTML page: %s", counts.total(), listed)


def _files(config: Config, inputs: Mapping[str, Artifact]) -> list[str]:
    """Paths or URLs of the archives to read."""
    config.check_inputs(inputs)
    files: dict[str, None] = {}
    for artifact in config.given("pages", inputs):
        found = [artifact.url(file.path) for file in artifact.files("data/") if _is_archive(artifact, file.path)]
        if not found:
            raise DataError(f"{artifact.manifest.name} holds no archives", expected="data/*.warc.gz")
        files |= dict.fromkeys(found)
    for artifact in config.given("archive_list", inputs):
        for file in artifact.files("data/"):
            names = listed(artifact.read(file.path), config.prefix)
            if here := [name for name in names if "://" not in name or name.startswith("file://")]:
                raise DataError(
                    f"{artifact.url(file.path)} does not say where its archives are",
                    expected="URLs, or paths below the URL extract.prefix",
                    found=here[0],
                    fix="adopt archives on this machine themselves: their folder, or a pattern with *",
                )
            files |= dict.fromkeys(names)
    return list(files)[: config.max_files]


def _is_archive(artifact: Artifact, path: str) -> bool:
    """True for every adopted file, whatever its name, and for the WARC files of a crawl."""
    return artifact.manifest.location is not None or path.endswith((".warc.gz", ".warc"))


def _check_unchanged(context: Context, files: list[str], path: str) -> None:
    """Raise DataError if the list of files has changed since this extraction began: shards of two must not mix."""
    text = "\n".join(file.rpartition("/")[2] for file in files).encode()
    if not context.store.exists(path):
        if not context.ledger.read(["candidates-00000"]):
            context.store.write(path, text)
    elif context.store.read(path) != text:
        raise DataError(
            "the list of files has changed since this extraction began",
            expected=f"{len(context.store.read(path).splitlines())} files as before",
            found=f"{len(files)} files",
            fix="run again with --force extract",
        )

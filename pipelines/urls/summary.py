"""The summary of a run's lists: how each was read, and warnings about it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from infra.errors import DataError
from infra.run.manifest import ShardRecord
from pipelines.urls.files import ListFile
from pipelines.urls.plan import Columns, dialect_of

__all__ = ["facts", "report"]

log = logging.getLogger(__name__)

_MANY = 0.1  # share of malformed rows that is worth a warning


def report(files: Sequence[ListFile], surveys: Sequence[ShardRecord]) -> list[str]:
    """Warn of empty files and of those with many malformed rows; return a message for each dialect.

    Raises DataError if no file has a row.
    """
    for file, record in zip(files, surveys, strict=True):
        rows, malformed = record.facts["rows"], record.facts["malformed"]
        if not rows:
            log.warning("%s %s", file.url, _emptiness(record))
        elif malformed > _MANY * rows:
            log.warning("%s: %d of %d rows are malformed", file.url, malformed, rows)
    if not any(record.facts["rows"] for record in surveys):
        found = [f"{file.url} {_emptiness(record)}" for file, record in zip(files, surveys, strict=True)]
        raise DataError("the list has no rows", found="; ".join(found[:5]) + (" ..." if len(found) > 5 else ""))
    return [f"read as {dialect}: {count} files" for dialect, count in _dialects(surveys).items()]


def _emptiness(record: ShardRecord) -> str:
    dialect = dialect_of(record)
    return f"has a header and no rows: {', '.join(dialect.columns)}" if dialect and dialect.header else "is empty"


def _dialects(surveys: Sequence[ShardRecord]) -> Counter[str]:
    found = [dialect_of(record) for record in surveys if record.facts["rows"]]
    return Counter(str(dialect) for dialect in found if dialect)


def facts(
    surveys: Sequence[ShardRecord], columns: Sequence[Columns | None], records: Sequence[ShardRecord]
) -> dict[str, Any]:
    """Return the facts of the manifest: files and rows, columns, dialects, and lines that are no rows of their own."""
    named = [own for own in columns if own]
    captions = {own.caption: None for own in named if own.caption}
    counts: Counter[str] = sum((Counter(record.facts["counts"]) for record in surveys), Counter())
    found = {
        "files": len(surveys),
        "rows": sum(record.facts["rows"] for record in records),
        "url_col": ", ".join({own.url: None for own in named}),
        "caption_col": ", ".join(captions) or None,
    }
    return found | {name: dict(value) for name, value in (("dialects", _dialects(surveys)), ("lines", counts)) if value}

"""Readers of URL lists: rows in batches, and malformed rows separately.

A malformed line affects no other: a quote that is never closed swallows no neighbours; a line that is not UTF-8 or not
JSON is reported with its number. A file that is truncated or damaged as a whole (gzip, Parquet, a JSON document) is an
error, since what is missing is unknown.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa

from infra.errors import DataError
from infra.store import unreachable
from pipelines.urls import dialect as dialects
from pipelines.urls.config import Quoting
from pipelines.urls.json_rows import json_batches, jsonl_batches
from pipelines.urls.lines import Batch, Collector, MalformedRow, Opener, filled, lines
from pipelines.urls.parquet_rows import parquet_batches
from pipelines.urls.separated import Dialect, batches

__all__ = ["Batch", "MalformedRow", "find_dialect", "read_batches", "translated_errors"]


def read_batches(
    opener: Callable[[], BinaryIO],
    form: str,
    place: str,
    *,
    dialect: Dialect | None = None,
    groups: Sequence[int] | None = None,
    first: int = 1,
    columns: Sequence[str] | None = None,
) -> Iterator[Batch]:
    """Read a list of format ``form`` in batches.

    ``dialect``: of csv and tsv, by default found out. ``groups``: only these row groups of a Parquet file, the first
    row of which is number ``first``; ``columns``: only these of its columns.
    Raises DataError, naming ``place``, if the file is damaged.
    """
    kind, opened = _opened(opener, form)
    with translated_errors(place, kind):
        if kind == "parquet":
            yield from parquet_batches(opened, groups, first, columns)
        elif kind in _USUAL:
            yield from batches(lines(opened), dialect or _decide(opened, kind))
        else:
            yield from {"txt": _txt, "jsonl": jsonl_batches, "json": json_batches}[kind](opened)


_USUAL = {"csv": ",", "tsv": "\t"}


def find_dialect(
    opener: Callable[[], BinaryIO], form: str, place: str, quoting: Quoting | None = None
) -> Dialect | None:
    """Return how a csv or tsv file is written, None for other formats. Raises DataError, naming ``place``."""
    kind, opened = _opened(opener, form)
    if kind not in _USUAL:
        return None
    with translated_errors(place, kind):
        return _decide(opened, kind, quoting)


def _decide(opened: Opener, kind: str, quoting: Quoting | None = None) -> Dialect:
    return dialects.decide(dialects.sample(lines(opened)), _USUAL[kind], quoting)


def _opened(opener: Callable[[], BinaryIO], form: str) -> tuple[str, Opener]:
    """Return the kind of a format, and what opens a file of it, decompressed."""
    kind, gz, _ = form.partition(".gz")

    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        with opener() as source:
            if kind == "parquet":
                yield source
                return
            inner = gzip.GzipFile(fileobj=source) if gz else source
            # Buffered here, since the files of some fsspec backends do not support readline(limit).
            with io.BufferedReader(inner) as text:  # type: ignore[type-var]
                yield text

    return kind, opened


def _txt(opened: Opener) -> Iterator[Batch]:
    counts = Counter[str]()
    rows = filled(lines(opened), counts)
    return Collector(lambda values: {"url": [value.strip() for value in values]}, counts).batches(rows)


@contextmanager
def translated_errors(place: str, kind: str) -> Iterator[None]:
    """Translate exceptions of damaged files to DataError, naming the file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{place} is not gzip, or is truncated", found=str(error)) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not UTF-8", found=error.reason) from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and (error.errno or unreachable(error)):
            raise  # a storage error; those without errno are Arrow's
        raise DataError(f"{place} is damaged", expected=f"a {kind} file", found=str(error)[:300]) from None
    except ValueError as error:
        if "range requests" not in str(error):  # fsspec's words for a web server that gives whole files only
            raise
        raise DataError(
            f"{place} cannot be read remotely", found=str(error), fix="copy it to a folder or a bucket"
        ) from None
    except DataError as error:
        if error.message.startswith(place):
            raise
        raise DataError(
            f"{place}: {error.message}", expected=error.expected, found=error.found, fix=error.fix
        ) from None

"""Reading and writing the tables of :mod:`pipelines.layout`: pairs, images, selections."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.errors import USER_INFO, DataError
from infra.formats.shards import shard_name
from infra.run.context import Output
from infra.run.manifest import Funnel
from infra.store import Store
from pipelines.layout import Images, Slice, funnel
from pipelines.web.urls import shown

__all__ = [
    "IMAGE_ACCOUNT",
    "RESERVED",
    "SELECTION_COLUMNS",
    "concatenated",
    "image_columns",
    "image_rows",
    "image_table",
    "read_slices",
    "read_table",
    "selected",
    "successes",
    "table_columns",
    "uid",
    "uids",
    "with_column",
    "with_image_columns",
    "with_listed_columns",
    "without_secrets",
    "write_selection",
]

SELECTION_COLUMNS = (
    *("uid", "key", "shard", "url", "caption", "page_url", "source", "license"),
    *("width", "height", "original_width", "original_height", "sha256"),
)
"""Columns every selection has; those that stages add follow them."""

IMAGE_ACCOUNT = ("status", "error_message", "reason", "exif")
"""Columns of a download about its work and the camera's: no stage asks for them, and they stay where they are."""

_BLAKE2B = hashlib.blake2b(digest_size=16)


RESERVED = {
    *("key", "status", "error_message", "width", "height", "original_width", "original_height", "exif"),
    *("md5", "sha256", "sha512", "reason", "retry_of", "hash_mismatch", "image_opt_out", "digital_source"),
}
"""Columns that ``download`` writes. A list's own such column becomes ``{name}_listed``; img2dataset refuses it."""


def uid(url: str, caption: str) -> str:
    """The id of a pair: 32 hex digits that depend only on the image's canonical URL and the caption."""
    hashed = _BLAKE2B.copy()  # takes half the time of a new one
    hashed.update(f"{url}\n{caption}".encode())
    return hashed.hexdigest()


def uids(urls: pa.StringArray, captions: pa.StringArray) -> pa.StringArray:
    """The ids of pairs, neither null."""
    together = pc.binary_join_element_wise(urls, captions, "\n")
    _, offsets, data = together.buffers()
    ends = memoryview(offsets).cast("i")[together.offset : together.offset + len(together) + 1]
    texts, found = memoryview(data or b""), []
    for start, end in pairwise(ends):
        hashed = _BLAKE2B.copy()
        hashed.update(texts[start:end])
        found.append(hashed.hexdigest())
    return pa.array(found, pa.string())


def read_table(store: Store, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file of ``store``, or some of its columns."""
    with store.open(path) as source:
        return pq.read_table(source, columns=columns)


def table_columns(store: Store, path: str) -> list[str]:
    """The columns of a Parquet file of ``store``."""
    with store.open(path) as source:
        return list(pq.read_schema(source).names)


def read_slices(store: Store, slices: Iterable[Slice], columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of ``slices``, in order; only the row groups they lie in are read, however large the file.

    ``columns``: read only those of these that there are. Types that differ between files are :func:`concatenated`.
    """
    return concatenated([_read_slice(store, part, columns) for part in slices])


def _read_slice(store: Store, part: Slice, columns: Sequence[str] | None) -> pa.Table:
    with store.open(part.path) as source, pq.ParquetFile(source) as file:
        groups: list[int] = []
        before = end = 0
        for group in range(file.num_row_groups):
            start, end = end, end + file.metadata.row_group(group).num_rows
            if start < part.start + part.rows and end > part.start:
                before = before if groups else start
                groups.append(group)
        names = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        return file.read_row_groups(groups, columns=names).slice(part.start - before, part.rows)


def with_column(rows: pa.Table, name: str, values: Any) -> pa.Table:  # noqa: ANN401 - what pyarrow takes as a column
    """``rows`` with the column ``name``, in place of the one of that name if there is one."""
    if name in rows.column_names:
        return rows.set_column(rows.column_names.index(name), name, values)
    return rows.append_column(name, values)


def concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of all ``tables``, at least one. Columns that some lack are null there; number types are widened.

    Raises DataError for a column whose types do not go together.
    """
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError("a column has different types in different shards", found=str(error)) from error


def without_secrets(rows: pa.Table, urls: Sequence[str] = ()) -> pa.Table:
    """``rows`` without the user part of URLs in any text, and with secret parameters of the columns ``urls`` masked."""
    for name in rows.column_names:
        column = rows[name]
        if not pa.types.is_string(column.type):
            continue
        if name in urls and pc.any(pc.match_substring(column, "=")).as_py():
            column = pa.array([value if value is None else shown(value) for value in column.to_pylist()], pa.string())
        elif pc.any(pc.match_substring(column, "@")).as_py():
            column = pc.replace_substring_regex(column, f"(?i){USER_INFO}", r"\1***@")
        else:
            continue
        rows = rows.set_column(rows.column_names.index(name), rows.field(name), column)
    return rows


# --- images -----------------------------------------------------------------------------------------------------------


def image_table(images: Images, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Every attempted row of a shard of images."""
    return read_table(images.store(shard), images.path(shard), columns)


def image_columns(images: Images, shard: int) -> list[str]:
    """The columns of a shard of images."""
    return table_columns(images.store(shard), images.path(shard))


def with_image_columns(rows: pa.Table, images: Images, shard: int, names: Sequence[str]) -> pa.Table:
    """``rows`` of a selection, with those of the columns ``names`` they lack that the shard of images has."""
    lacking = [name for name in names if name not in rows.column_names]
    if not lacking or not (found := [name for name in image_columns(images, shard) if name in lacking]):
        return rows
    source = image_table(images, shard, ["key", *found])
    indices = pc.index_in(rows["key"], value_set=source["key"].combine_chunks())
    for name in found:
        rows = rows.append_column(name, source[name].take(indices))
    return rows


def with_listed_columns(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """``rows`` of pairs, with those of the columns ``names`` that the list has under a name a download writes itself.

    A list's ``original_width`` is ``original_width_listed`` in its pairs. Pairs without captions get null ones.
    """
    for name in names:
        if name not in rows.column_names and (listed := f"{name}_listed") in rows.column_names:
            rows = rows.append_column(name, rows[listed])
    return rows if "caption" in rows.column_names else rows.append_column("caption", pa.nulls(len(rows), pa.string()))


def image_rows(images: Images, shard: int) -> pa.Table:
    """The rows of an image shard that have an image, without the columns :data:`IMAGE_ACCOUNT`."""
    rows = successes(image_table(images, shard), shard)
    return rows.drop_columns([name for name in IMAGE_ACCOUNT if name in rows.column_names])


def successes(rows: pa.Table, shard: int) -> pa.Table:
    """The rows of an image shard that have an image: the columns of a selection, then all others.

    img2dataset's own tables have no ``uid``; it is computed from URL and caption.
    """
    rows = rows.filter(pc.equal(rows["status"], "success"))
    columns: dict[str, Any] = {name: rows[name] for name in rows.column_names}
    columns["shard"] = pa.repeat(pa.scalar(shard, pa.int32()), rows.num_rows)
    absent = pa.nulls(rows.num_rows, pa.string())
    if "caption" in columns:  # numbers, or nothing at all, as some lists have
        columns["caption"] = columns["caption"].cast(pa.string())
    if "uid" not in columns:
        pairs = zip(rows["url"].to_pylist(), columns.get("caption", absent).to_pylist(), strict=True)
        columns["uid"] = pa.array([uid(url, caption or "") for url, caption in pairs], pa.string())
    first = {name: columns.pop(name, absent) for name in SELECTION_COLUMNS}
    return pa.table(first | columns)


def selected(rows: pa.Table, shard: int) -> pa.Table:
    """The rows of an image shard that have an image, with the columns of a selection only."""
    return successes(rows, shard).select(SELECTION_COLUMNS)


# --- selections -------------------------------------------------------------------------------------------------------


def write_selection(
    output: Output,
    shard: int,
    rows: pa.Table,
    reasons: Sequence[str | None],
    notes: Mapping[str, Any] | None = None,
    unit: str = "images",
) -> Funnel:
    """Write the kept (reason None) and the dropped ``rows`` of a shard, and return their funnel.

    ``notes``: further columns of the dropped rows.
    """
    reason = pa.array(reasons, pa.string())
    kept = rows.filter(reason.is_null())
    for name, values in {"reason": reason, **(notes or {})}.items():
        rows = with_column(rows, name, values)
    dropped = rows.filter(reason.is_valid())
    output.write_table(f"data/kept-{shard_name(shard)}.parquet", kept)
    output.write_table(f"data/dropped-{shard_name(shard)}.parquet", dropped)
    return funnel(unit, reasons)

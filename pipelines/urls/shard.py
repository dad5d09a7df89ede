"""The two readings of a URL list: ``survey`` finds the schema of a file, ``write_pairs`` converts its rows."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.errors import ConfigError, DataError
from infra.run.context import ShardOutput
from infra.run.manifest import Funnel, ShardRecord
from infra.schema import Drop, pairs_schema
from pipelines.tables import uid
from pipelines.urls.config import Config
from pipelines.urls.files import ListFile
from pipelines.urls.formats import Batch, read_batches, translated_errors
from pipelines.web.urls import BadUrlError, canonical

__all__ = ["Part", "Plan", "common_schema", "has_uids", "pairs_of", "parts", "plan", "survey", "total", "write_pairs"]

URL_COLUMNS = ("url", "image_url", "image_urls", "img_url", "imageurl", "coco_url", "image_link", "link")
CAPTION_COLUMNS = ("caption", "text", "captions", "alt", "alt_text", "alttext", "title", "description")
"""Usual column names, the likeliest first, in any case: LAION's URL and TEXT, cc2dataset's alt, SBU's plurals."""

RESERVED = {
    *("key", "status", "error_message", "width", "height", "original_width", "original_height", "exif"),
    *("md5", "sha256", "sha512", "reason", "retry_of", "hash_mismatch", "image_opt_out", "digital_source"),
}
"""Columns that ``download`` writes. A list's own such column becomes ``{name}_listed``; img2dataset refuses it."""

FILE_ROWS = 200_000  # per output file; some 100 MB in memory
FILE_BYTES = 256 << 20  # in memory, whichever comes first
GROUP_ROWS = 10_000  # per row group, the least that a reader of a few rows reads
PART_ROWS = 1_000_000  # of a Parquet file, per task


# --- first reading: the types of the columns --------------------------------------------------------------------------


def survey(file: ListFile, output: ShardOutput) -> ShardRecord:
    """Find the columns of a file and their types.

    Facts: ``schema``, of types that JSON and every reader knows, and ``groups``, rows per row group of a Parquet file.
    """
    if file.format == "parquet":
        with translated_errors(file.url, "parquet"), file.open() as source:
            opened = pq.ParquetFile(source)
            groups = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
            types = {field.name: plain(field.type) for field in opened.schema_arrow}
            if len(types) < len(opened.schema_arrow):
                raise DataError("two columns have the same name", found=", ".join(opened.schema_arrow.names))
    elif file.format.startswith("txt"):
        groups, types = [], {"url": pa.string()}
    else:
        groups, types = [], {}
        text = file.format.startswith(("csv", "tsv"))
        for batch in read_batches(file.open, file.format, file.url):
            for name, values in batch.columns.items():
                found = _type_of_texts(values) if text else _type_of(values)
                types[name] = merged(types.get(name, pa.null()), found)
    schema = pa.schema(list(types.items())).serialize().to_pybytes()
    return output.commit(facts={"schema": base64.b64encode(schema).decode(), "groups": groups})


def common_schema(surveys: Iterable[ShardRecord]) -> pa.Schema:
    """Merge the schemas of all files: columns in order of appearance, of types that hold all values."""
    types: dict[str, pa.DataType] = {}
    for record in surveys:
        for column in pa.ipc.read_schema(pa.py_buffer(base64.b64decode(record.facts["schema"]))):
            types[column.name] = merged(types.get(column.name, pa.null()), column.type)
    return pa.schema([(name, pa.string() if pa.types.is_null(type) else type) for name, type in types.items()])


def plain(type: pa.DataType) -> pa.DataType:
    """Return the type to read a column as: numbers, booleans, texts and lists of them stay, all else becomes text."""
    if pa.types.is_dictionary(type):
        return plain(type.value_type)
    if pa.types.is_float16(type):
        return pa.float32()
    if pa.types.is_boolean(type) or pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_null(type):
        return type
    if pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type):
        inner = plain(type.value_type)
        return pa.list_(pa.string() if pa.types.is_null(inner) else inner)
    return pa.string()


def merged(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return a type that holds the values of both: integers become floats, and what differs more, text."""
    try:
        fields = [pa.schema([("it", type)]) for type in (one, other)]
        return pa.unify_schemas(fields, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def _type_of(values: Sequence[Any]) -> pa.DataType:
    try:
        return plain(pa.array(values).type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.string()


def _type_of_texts(values: Sequence[str]) -> pa.DataType:
    """Infer the type of values given as text. ``007`` is not a number: it would come back as 7."""
    texts = pa.array(values, pa.string())
    texts = texts.filter(pc.not_equal(texts, ""))
    if not len(texts):
        return pa.null()
    if not pc.all(pc.match_substring_regex(texts, _NUMBER)).as_py():
        return pa.string()
    for type in (pa.int64(), pa.float64()):
        try:
            texts.cast(type)
        except pa.ArrowInvalid:
            continue
        return type
    return pa.string()


_NUMBER = r"^-?(?:0|[1-9]\d{0,17})(?:\.\d+)?(?:[eE][-+]?\d{1,2})?$"


# --- between: meaning of the columns ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Columns. ``names``: column of the pairs -> column of the list; with ``uid`` only if the list has pair ids."""

    url: str
    caption: str | None
    names: Mapping[str, str]
    schema: pa.Schema  # of the pairs


def plan(listed: pa.Schema, config: Config, *, uids: bool) -> Plan:
    """Find the columns of URLs and captions, and a name for every other. Raises ConfigError."""
    url = _column(listed, config.url_col, URL_COLUMNS, "url_col", "URLs")
    caption = None
    if config.caption_col != "" and (config.caption_col or listed.names != [url]):
        caption = _column(listed, config.caption_col, CAPTION_COLUMNS, "caption_col", "captions", other_than=url)
    wanted = listed.names
    if config.save_additional_columns is not None:
        if missing := [name for name in config.save_additional_columns if name not in listed.names]:
            raise ConfigError(
                f"the list has no column {missing[0]!r} to save", expected=", ".join(listed.names), found=missing[0]
            )
        wanted = list(config.save_additional_columns)
    others = [name for name in wanted if name not in (url, caption)]
    names = {"url": url} | ({"caption": caption} if caption else {})
    if uids:
        names["uid"] = "uid"
    fields = [field for field in pairs_schema() if field.name != "caption" or caption]
    for name in (field.name for field in fields if field.name not in ("uid", "url", "caption")):
        found = next((other for other in (name, name.upper()) if other in others), None)  # LAION: LICENSE, LANGUAGE
        if found:
            names[name] = found
    known = {field.name for field in pairs_schema()} | RESERVED
    for other in others:
        if other not in names.values():
            name = f"{other}_listed" if other in known else other
            while name in names or name in known:
                name += "_"
            names[name] = other
            fields.append(pa.field(name, listed.field(other).type))
    return Plan(url, caption, names, pa.schema(fields))


def _column(
    listed: pa.Schema, named: str | None, usual: Sequence[str], option: str, what: str, other_than: str = ""
) -> str:
    if named:
        if named in listed.names:
            return named
        raise ConfigError(f"the list has no column {named!r}", expected=f"{option}: one of {', '.join(listed.names)}")
    lower: dict[str, str] = {name.lower(): name for name in reversed(listed.names) if name != other_than}
    for name in usual:
        if name in lower:
            return lower[name]
    fix = f"set {option}" + (', "" for images without captions' if option == "caption_col" else "")
    raise ConfigError(
        f"none of the list's columns is known to hold {what}",
        expected=f"{', '.join(usual)}, in any case",
        found=", ".join(listed.names) or "no columns",
        fix=fix,
    )


def has_uids(files: Sequence[ListFile], listed: pa.Schema) -> bool:
    """Return True if the list's ``uid`` column, by its first rows, holds ids of 32 hex digits, as DataComp's does."""
    if "uid" not in listed.names:
        return False
    for file in files:
        for batch in read_batches(file.open, file.format, file.url):
            values = batch.columns.get("uid", [])
            texts = [str(value.as_py() if isinstance(value, pa.Scalar) else value) for value in values]
            if texts:
                return all(map(_UID.fullmatch, texts))
    return False


_UID = re.compile("[0-9a-f]{32}")


# --- second reading: the rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A task: a file, or row ``groups`` of a Parquet file, whose first row has number ``first``."""

    name: str
    file: ListFile
    groups: tuple[int, ...] | None = None
    first: int = 1


def parts(number: int, file: ListFile, record: ShardRecord) -> Iterator[Part]:
    """Split file ``number`` into tasks: one, or one per million rows of Parquet."""
    rows: list[int] = record.facts["groups"]
    if file.format != "parquet":
        yield Part(f"{number:05d}", file)
        return
    start, first = 0, 1
    while start < len(rows):
        end = start + 1
        while end < len(rows) and sum(rows[start : end + 1]) <= PART_ROWS:
            end += 1
        yield Part(f"{number:05d}-{start:05d}", file, tuple(range(start, end)), first)
        first += sum(rows[start:end])
        start = end


def write_pairs(plan: Plan, part: Part, output: ShardOutput) -> ShardRecord:
    """Convert the rows of a part to pairs, and write those that are none with a reason."""
    entered, counts = 0, Counter[str]()
    pairs = _Writer(output, f"data/{part.name}")
    dropped = _Writer(output, f"data/dropped-{part.name}")
    for batch in read_batches(part.file.open, part.file.format, part.file.url, part.groups, part.first):
        kept, rest = pairs_of(batch, plan, part.file.name)
        entered += len(batch.numbers) + len(batch.bad)
        counts.update(rest["reason"].to_pylist())
        pairs.add(kept)
        dropped.add(rest)
    pairs.close()
    dropped.close()
    return output.commit(Funnel(unit="rows", entered=entered, kept=pairs.rows, dropped=dict(sorted(counts.items()))))


def total(records: Sequence[ShardRecord]) -> Funnel:
    """Sum the funnels of all parts; an empty list has an empty one."""
    return sum((record.funnel for record in records if record.funnel), Funnel(unit="rows", entered=0, kept=0))


def pairs_of(batch: Batch, plan: Plan, file: str) -> tuple[pa.Table, pa.Table]:
    """Split a batch into pairs and dropped rows.

    Dropped rows have ``file``, ``row`` (its number), ``url``, ``reason``, ``detail`` and ``text``: the row as JSON, or
    up to 2,000 characters of a malformed line.
    """
    count = len(batch.numbers)
    columns = {name: _cast(batch.columns.get(source), plan.schema.field(name).type, count)
               for name, source in plan.names.items()}  # fmt: skip
    urls = [(url or "").strip() for url in columns["url"].to_pylist()]
    captions = columns["caption"].to_pylist() if plan.caption else [None] * count
    given = columns["uid"].to_pylist() if "uid" in columns else [None] * count
    uids: list[str] = []
    faults: list[tuple[Drop, str] | None] = []
    for url, caption, own in zip(urls, captions, given, strict=True):
        fault, name = _check(url, caption, own, plan)
        faults.append(fault)
        uids.append(name)
    columns |= {"url": pa.array(urls, pa.string()), "uid": pa.array(uids, pa.string())}
    absent = {field.name: pa.nulls(count, field.type) for field in plan.schema if field.name not in columns}
    every = pa.table([(columns | absent)[name] for name in plan.schema.names], schema=plan.schema)
    bad = [place for place, fault in enumerate(faults) if fault]
    lost = [(batch.numbers[place], urls[place], *faults[place], _row(batch, place)) for place in bad]  # type: ignore[misc]
    lost += [(item.number, None, Drop.MALFORMED, item.detail, item.text) for item in batch.bad]
    lost.sort(key=lambda item: item[0])
    rows = [
        {"file": file, "row": number, "url": url, "reason": str(reason), "detail": detail, "text": text}
        for number, url, reason, detail, text in lost
    ]
    kept = every.filter(pa.array([fault is None for fault in faults], pa.bool_())) if bad else every
    return kept, pa.Table.from_pylist(rows, _DROPPED)


_DROPPED = pa.schema(
    [
        *(("file", pa.string()), ("row", pa.int64()), ("url", pa.string())),
        *(("reason", pa.string()), ("detail", pa.string()), ("text", pa.string())),
    ]
)


def _check(url: str, caption: str | None, own: str | None, plan: Plan) -> tuple[tuple[Drop, str] | None, str]:
    """Return why a row is no pair, or None, and its id: the list's, or else that of the same pair in a crawl."""
    if not url:
        return (Drop.BAD_URL, "no URL"), ""
    try:
        url = canonical(url)
    except BadUrlError as error:
        return (Drop.BAD_URL, str(error)), ""
    if plan.caption and not (caption or "").strip():
        return (Drop.NO_TEXT, "no caption"), ""
    if "uid" in plan.names:
        own = own or ""
        return (None if _UID.fullmatch(own) else (Drop.MALFORMED, "uid is not 32 hex digits")), own
    return None, uid(url, caption or "")


def _row(batch: Batch, place: int) -> str:
    """Return a row of the list as JSON."""
    values = {name: column[place] for name, column in batch.columns.items()}
    return json.dumps(
        {name: value.as_py() if isinstance(value, pa.Scalar) else value for name, value in values.items()},
        ensure_ascii=False,
        default=str,
    )


def _cast(values: Any, type: pa.DataType, count: int) -> pa.Array:  # noqa: ANN401 - a list, an Arrow array or None
    """Return ``count`` values as an array of ``type``, which by the survey holds them all."""
    if values is None:
        return pa.nulls(count, type)
    if isinstance(values, pa.Array):
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if not (pa.types.is_string(type) and (pa.types.is_nested(values.type) or _is_bytes(values.type))):
            return values.cast(type)
        values = values.to_pylist()
    if pa.types.is_string(type):
        return pa.array([value if value is None else _text(value) for value in values], type)
    if any(isinstance(value, str) for value in values):  # of a csv
        texts = pa.array(values, pa.string())
        return pc.if_else(pc.equal(texts, ""), None, texts).cast(type)
    return pa.array(values, type)


def _is_bytes(type: pa.DataType) -> bool:
    return type.id in (pa.binary().id, pa.large_binary().id, pa.binary(1).id)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()  # many writers of Parquet do not mark texts as such
        except UnicodeDecodeError:
            return value.hex()
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


class _Writer:
    """Writes rows to files of :data:`FILE_ROWS` rows; writes none if there are no rows."""

    def __init__(self, output: ShardOutput, prefix: str) -> None:
        self._output, self._prefix = output, prefix
        self._tables: list[pa.Table] = []
        self._waiting = self._bytes = self._files = self.rows = 0

    def add(self, table: pa.Table) -> None:
        if table.num_rows:
            self._tables.append(table)
            self._waiting += table.num_rows
            self._bytes += table.nbytes
            self.rows += table.num_rows
        if self._waiting >= FILE_ROWS or self._bytes >= FILE_BYTES:
            self.close()

    def close(self) -> None:
        """Write the buffered rows."""
        if self._tables:
            table = pa.concat_tables(self._tables)
            with self._output.open(f"{self._prefix}-{self._files:04d}.parquet", rows=table.num_rows) as sink:
                pq.write_table(table, sink, compression="zstd", row_group_size=GROUP_ROWS)
            self._tables, self._waiting, self._bytes, self._files = [], 0, 0, self._files + 1

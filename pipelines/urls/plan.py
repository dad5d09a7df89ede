"""Plan the columns of a list: which hold URLs and captions, file by file, and the names of all others."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from infra.errors import ConfigError
from infra.run.manifest import ShardRecord
from infra.schema import pairs_schema
from pipelines.tables import RESERVED
from pipelines.urls.column_types import Found, final, merged
from pipelines.urls.config import Config
from pipelines.urls.files import ListFile
from pipelines.urls.formats import read_batches
from pipelines.urls.separated import Dialect

__all__ = [
    "UID",
    "URL_COLUMNS",
    "Columns",
    "Plan",
    "columns_of",
    "dialect_of",
    "plan",
    "read_schema",
    "write_schema",
]

URL_COLUMNS = ("url", "image_url", "image_urls", "img_url", "imageurl", "coco_url", "image_link", "link")
CAPTION_COLUMNS = ("caption", "text", "captions", "alt", "alt_text", "alttext", "title", "description")
"""Usual column names, the likeliest first, in any case: LAION's URL and TEXT, cc2dataset's alt, SBU's plurals."""

UID = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class Columns:
    """The columns of URLs and captions of one file."""

    url: str
    caption: str | None


@dataclass(frozen=True)
class Plan:
    """The pairs of a list. ``others``: further column of the pairs -> column of the list; ``schema``: of the pairs."""

    others: Mapping[str, str]
    schema: pa.Schema
    captions: bool


def write_schema(types: Mapping[str, Found]) -> str:
    """Return the types of a file's columns as text, for the facts of a shard."""
    fields = [pa.field(name, found.type, metadata={"wide": str(int(found.wide))}) for name, found in types.items()]
    return base64.b64encode(pa.schema(fields).serialize().to_pybytes()).decode()


def read_schema(record: ShardRecord) -> dict[str, Found]:
    """Return the types of a file's columns."""
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(record.facts["schema"])))
    return {field.name: Found(field.type, field.metadata[b"wide"] == b"1") for field in schema}


def dialect_of(record: ShardRecord) -> Dialect | None:
    """Return the dialect of a csv or tsv file."""
    return Dialect(*record.facts["dialect"]) if record.facts["dialect"] else None


def columns_of(files: Sequence[ListFile], surveys: Sequence[ShardRecord], config: Config) -> list[Columns | None]:
    """Find the columns of URLs and captions of each file; None for one without rows.

    Raises ConfigError, with the columns found, if a file has none, or two of the same name, or if only some files have
    captions.
    """
    found: list[Columns | None] = []
    for file, record in zip(files, surveys, strict=True):
        names = list(read_schema(record))
        found.append(_columns(file.url, names, record.facts["twice"], config) if record.facts["rows"] else None)
    some = [(file, columns) for file, columns in zip(files, found, strict=True) if columns]
    if len({columns.caption is None for _, columns in some}) > 1:
        without = next(file for file, columns in some if columns.caption is None)
        raise ConfigError(
            "only some files of the list have captions",
            expected="a column of captions in every file, or in none",
            found=f"none in {without.url}",
            fix='give the files separately, or set caption_col="" for images without captions',
        )
    return found


def _columns(file: str, names: Sequence[str], twice: Sequence[str], config: Config) -> Columns:
    url = _column(file, names, config.url_col, URL_COLUMNS, "url_col", "URLs")
    caption = None
    if config.caption_col != "" and (config.caption_col or list(names) != [url]):
        caption = _column(file, names, config.caption_col, CAPTION_COLUMNS, "caption_col", "captions", other_than=url)
    for name in (url, caption):
        if name in twice:
            raise ConfigError(f"two columns of {file} have the same name {name!r}", found=", ".join(names))
    return Columns(url, caption)


def _column(
    file: str,
    names: Sequence[str],
    given: str | None,
    usual: Sequence[str],
    option: str,
    what: str,
    other_than: str = "",
) -> str:
    if given:
        if given in names:
            return given
        raise ConfigError(f"{file} has no column {given!r}", expected=f"{option}: one of {', '.join(names)}")
    lower: dict[str, str] = {name.lower(): name for name in reversed(names) if name != other_than}
    for name in usual:
        if name in lower:
            return lower[name]
    fix = f"set {option}" + (', "" for images without captions' if option == "caption_col" else "")
    raise ConfigError(
        f"none of the columns of {file} is known to hold {what}",
        expected=f"{', '.join(usual)}, in any case",
        found=", ".join(names),
        fix=fix,
    )


def plan(
    files: Sequence[ListFile], surveys: Sequence[ShardRecord], columns: Sequence[Columns | None], config: Config
) -> Plan:
    """Find a name and a type for every column. Raises ConfigError if one to save is missing."""
    listed: dict[str, Found] = {}  # those that hold neither URLs nor captions, of all files in order of appearance
    several = False
    for record, own in zip(surveys, columns, strict=True):
        for name, found in read_schema(record).items():
            if own and name in (own.url, own.caption):
                several = several or pa.types.is_list(found.type)
            elif own:
                listed[name] = merged(listed.get(name, Found()), found)
    others = list(listed)
    if config.save_additional_columns is not None:
        ours = {name for own in columns if own for name in (own.url, own.caption)}
        if missing := [name for name in config.save_additional_columns if name not in {*listed, *ours}]:
            raise ConfigError(
                f"the list has no column {missing[0]!r} to save",
                expected=", ".join(name for record in surveys[:1] for name in read_schema(record)),
                found=missing[0],
            )
        others = [name for name in config.save_additional_columns if name in listed]
    names: dict[str, str] = {}
    if "uid" in listed and not several and _has_uids(files, surveys):
        names["uid"] = "uid"
    captions = any(own and own.caption for own in columns)
    fields = [field for field in pairs_schema() if field.name != "caption" or captions]
    for name in (field.name for field in fields if field.name not in ("uid", "url", "caption")):
        upper = next((other for other in (name, name.upper()) if other in others), None)  # LAION: LICENSE, LANGUAGE
        if upper:
            names[name] = upper
    known = {field.name for field in pairs_schema()} | RESERVED
    for other in others:
        if other not in names.values():
            name = f"{other}_listed" if other in known else other
            while name in names or name in known:
                name += "_"
            names[name] = other
            fields.append(pa.field(name, final(listed[other].type)))
    return Plan(names, pa.schema(fields), captions)


def _has_uids(files: Sequence[ListFile], surveys: Iterable[ShardRecord]) -> bool:
    """Return True if the list's ``uid`` column, by its first rows, holds ids of 32 hex digits, as DataComp's does."""
    for file, record in zip(files, surveys, strict=True):
        found = read_schema(record).get("uid", Found())
        if not pa.types.is_string(found.type):
            continue
        for batch in read_batches(file.open, file.format, file.url, dialect=dialect_of(record), columns=["uid"]):
            values = batch.columns.get("uid", [])
            texts = [str(value) for value in (values.to_pylist() if isinstance(values, pa.Array) else values)]
            if texts:
                return all(map(UID.fullmatch, texts))
    return False

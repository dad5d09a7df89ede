"""Somebody else's list of pictures: img2dataset's inputs, LAION's, COYO's, DataComp's, as pairs for ``download``.

Lists come as csv, tsv, json, jsonl, txt (also gzipped) and Parquet, with a dozen names for the same two columns, and
with bad lines in them. A list is read twice and never held: first for the types of its columns, which only the whole
list knows (Parquet says so in its footers, and a txt has but one), then for its rows. Rows that cannot be pairs are
left out for a reason, and nothing else is lost: every other column of the list goes along.

Files: ``data/{file}-{part}.parquet`` (:func:`infra.schema.pairs_schema`, then the list's own columns; no ``caption``
for a list without captions), ``data/dropped-{file}-{part}.parquet`` with where the row stood and what was in it.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, get_args

from pydantic import Field, field_validator

from infra.cluster import Limits, run_shards
from infra.config import Runtime, StageConfig
from infra.errors import ConfigError, DataError, TransientError
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from infra.store import open_store, unreachable

__all__ = ["Config", "Format", "UrlFile", "find", "run"]

Format = Literal[
    "csv", "csv.gz", "tsv", "tsv.gz", "json", "json.gz", "jsonl", "jsonl.gz", "parquet", "txt", "txt.gz"
]  # fmt: skip


class Config(StageConfig):
    """Names and meanings are img2dataset's where it has the option."""

    produces: ClassVar[tuple[str, ...]] = ("pairs",)

    code_version: ClassVar[int] = 2

    url_list: str | tuple[str, ...] = Field(
        description="files, folders or globs, here or at any fsspec URL (s3://, https://, hf://)"
    )
    input_format: Format | None = Field(None, description="by default told by the names of the files")
    url_col: str | None = Field(None, description="column of addresses; by default one of the usual names")
    caption_col: str | None = Field(
        None, description='column of captions; by default one of the usual names; "" for images without captions'
    )
    save_additional_columns: tuple[str, ...] | None = Field(
        None, description="further columns to keep, by their names in the list; by default all"
    )
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")

    @field_validator("url_list")
    @classmethod
    def _some(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or not all(value):
            raise ValueError("the path of a list")
        # absolute: a worker may stand in another folder
        paths = tuple(
            url if "://" in url else str(Path(url).expanduser().absolute())
            for url in ((value,) if isinstance(value, str) else value)
        )
        return paths[0] if isinstance(value, str) else paths

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.url_list,) if isinstance(self.url_list, str) else self.url_list

    def identity(self) -> dict[str, Any]:
        """A list counts by its content, wherever it lies."""
        return super().identity() | {"url_list": [file.digest() for file in find(self)]}


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """No inputs. Funnel: rows of the list -> pairs."""
    from pipelines.urls import shard as work

    files = find(config)
    surveys = run_shards(
        context,
        [(f"survey-{number:05d}", file) for number, file in enumerate(files)],
        work.survey,
        config.limits,
    )
    schema = work.common_schema(surveys)
    plan = work.plan(schema, config, uids=work.has_uids(files, schema))
    parts = [
        part for number, (file, record) in enumerate(zip(files, surveys, strict=True))
        for part in work.parts(number, file, record)
    ]  # fmt: skip
    records = run_shards(context, [(part.name, part) for part in parts], partial(work.write_pairs, plan), config.limits)
    facts = {"files": len(files), "url_col": plan.url, "caption_col": plan.caption}
    return context.finish(records, funnel=work.total(records), facts=facts)


# --- files ------------------------------------------------------------------------------------------------------------

_SAMPLES, _BLOCK = 16, 64 << 10
_ETAGS = ("ETag", "etag", "md5Hash", "crc32c", "content_md5", "blob_id")  # S3, GCS, Azure, Hugging Face


@dataclass(frozen=True)
class UrlFile:
    """One file of a list: ``name`` in ``folder``, a path or fsspec URL; ``etag``: the store's word for its content."""

    folder: str
    name: str
    format: Format
    bytes: int | None
    etag: str = ""

    @property
    def url(self) -> str:
        return f"{self.folder}/{self.name}"

    def open(self) -> BinaryIO:
        """The stored bytes. Raises DataError if they are not those that were found."""
        store = open_store(self.folder)
        if self.bytes is not None and (size := store.size(self.name)) != self.bytes:
            raise DataError(f"{self.url} changed while it was used", expected=f"{self.bytes} bytes", found=f"{size}")
        return store.open(self.name)

    def digest(self) -> dict[str, Any]:
        """What tells this content from another, without reading a terabyte: its size, and the store's word for it,
        or else the sha256 of 16 blocks spread over it (all of it up to 1 MiB, so also a Parquet file's footer)."""
        if self.etag:
            return {"bytes": self.bytes, "etag": self.etag}
        found = hashlib.sha256()
        with _told(self.url), self.open() as source:
            if self.bytes is None or self.bytes <= _SAMPLES * _BLOCK:
                while block := source.read(_BLOCK):
                    found.update(block)
            else:
                for place in range(_SAMPLES):
                    source.seek(place * (self.bytes - _BLOCK) // (_SAMPLES - 1))
                    found.update(source.read(_BLOCK))
        return {"bytes": self.bytes, "sha256": found.hexdigest()}


def find(config: Config) -> list[UrlFile]:
    """The files of a list: as named, those of a folder or glob in the order of their names. Raises ConfigError."""
    files = []
    for url in config.urls:
        several, found = _local(url) if "://" not in url or url.startswith("file://") else _remote(url)
        chosen = [file for file in (_file(item, config.input_format, several) for item in found) if file]
        if not chosen:
            raise ConfigError(
                f"there is no list at {url}",
                expected=f"a file, or a folder or glob of *.{config.input_format or ', *.'.join(get_args(Format))}",
                found=", ".join(name for _, name, *_ in found[:10]) or "nothing",
            )
        if len(formats := sorted({file.format for file in chosen})) > 1:
            raise ConfigError(f"{url} has lists of several formats", found=", ".join(formats), fix="set input_format")
        files += chosen
    return files


_Found = tuple[str, str, int | None, str]  # folder, name, bytes, etag


def _file(found: _Found, wanted: Format | None, several: bool) -> UrlFile | None:
    """``found`` as a file of a list, if it is one: a file named alone may have any name if its format is ``wanted``."""
    folder, name, size, etag = found
    lower = name.lower().replace(".ndjson", ".jsonl")
    ending = next((form for form in get_args(Format) if lower.endswith(f".{form}")), None)
    if several and (wanted not in (None, ending) or name.startswith((".", "_"))):  # as Spark's own files
        return None
    form = wanted or ending
    return UrlFile(folder, name, form, size, etag) if form and (ending or not several) else None


def _local(url: str) -> tuple[bool, list[_Found]]:
    path = Path(url.removeprefix("file://"))
    if path.is_dir():
        found = sorted(item for item in path.iterdir() if item.is_file())
    elif path.is_file():
        found = [path]
    else:
        found = sorted(item for name in glob.glob(str(path), recursive=True) if (item := Path(name)).is_file())
    return not path.is_file(), [(str(item.parent), item.name, item.stat().st_size, "") for item in found]


def _remote(url: str) -> tuple[bool, list[_Found]]:
    import fsspec

    several = True
    with _told(url):
        filesystem, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
        if glob.has_magic(path):
            infos = list(filesystem.glob(path, detail=True).values())
        elif url.startswith(("http://", "https://")) or filesystem.isfile(path):
            infos, several = [filesystem.info(path)], False
        else:
            infos = filesystem.ls(path, detail=True) if filesystem.isdir(path) else []
    found = []
    for info in sorted((info for info in infos if info["type"] == "file"), key=lambda info: str(info["name"])):
        folder, _, name = str(filesystem.unstrip_protocol(info["name"])).rpartition("/")
        etag = next((str(info[key]).strip('"') for key in _ETAGS if info.get(key)), "")
        found.append((folder, name, info.get("size"), etag))
    return several, found


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Say which list it is that cannot be had."""
    try:
        yield
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec's HTTP takes an outage for an absence; an answer has a status
        if cause is not None and unreachable(cause) and getattr(cause, "status", None) is None:
            raise TransientError(f"{url} does not answer", found=str(cause)) from error
        raise ConfigError(f"there is no list at {url}", found=str(error)) from None
    except (ImportError, ValueError) as error:  # no package for the protocol; a web server that gives no parts of files
        raise ConfigError(f"{url} cannot be read from here", found=str(error), fix="bring it here first") from None
    except Exception as error:
        if unreachable(error):
            raise TransientError(f"{url} does not answer", found=f"{type(error).__name__}: {error}") from error
        raise

"""Files of a URL list: find them, locally or at any fsspec URL, and identify them by content."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from infra.errors import ConfigError, DataError, TransientError
from infra.store import open_store, unreachable

__all__ = ["Format", "ListFile", "find_files"]

Format = Literal[
    "csv", "csv.gz", "tsv", "tsv.gz", "json", "json.gz", "jsonl", "jsonl.gz", "parquet", "txt", "txt.gz"
]  # fmt: skip

_SAMPLES, _BLOCK = 16, 64 << 10
_ETAGS = ("ETag", "etag", "md5Hash", "crc32c", "content_md5", "blob_id")  # S3, GCS, Azure, Hugging Face


@dataclass(frozen=True)
class ListFile:
    """One file of a list: ``name`` in ``folder``, a path or fsspec URL; ``etag``: the store's content hash."""

    folder: str
    name: str
    format: Format
    bytes: int | None
    etag: str = ""

    @property
    def url(self) -> str:
        return f"{self.folder}/{self.name}"

    def open(self) -> BinaryIO:
        """Open the file. Raises DataError if its size has changed since it was found."""
        store = open_store(self.folder)
        if self.bytes is not None and (size := store.size(self.name)) != self.bytes:
            raise DataError(f"{self.url} changed while it was used", expected=f"{self.bytes} bytes", found=f"{size}")
        return store.open(self.name)

    def digest(self) -> dict[str, Any]:
        """Return a content fingerprint without reading a terabyte: the size and the store's ETag, or else the sha256
        of 16 blocks spread over the file (all of it up to 1 MiB), including a Parquet file's footer."""
        if self.etag:
            return {"bytes": self.bytes, "etag": self.etag}
        found = hashlib.sha256()
        with _translated_errors(self.url), self.open() as source:
            if self.bytes is None or self.bytes <= _SAMPLES * _BLOCK:
                while block := source.read(_BLOCK):
                    found.update(block)
            else:
                for place in range(_SAMPLES):
                    source.seek(place * (self.bytes - _BLOCK) // (_SAMPLES - 1))
                    found.update(source.read(_BLOCK))
        return {"bytes": self.bytes, "sha256": found.hexdigest()}


def find_files(urls: Sequence[str], input_format: Format | None = None) -> list[ListFile]:
    """Return the files of a list in the order given; those of a folder or glob are sorted by name.

    Raises ConfigError if there are none at one of ``urls``, and TransientError if a store is unreachable.
    """
    files = []
    for url in urls:
        several, found = _local(url) if "://" not in url or url.startswith("file://") else _remote(url)
        chosen = [file for file in (_file(item, input_format, several) for item in found) if file]
        if not chosen:
            raise ConfigError(
                f"no list found at {url}",
                expected=f"a file, or a folder or glob of *.{input_format or ', *.'.join(get_args(Format))}",
                found=", ".join(name for _, name, *_ in found[:10]) or "nothing",
            )
        if len(formats := sorted({file.format for file in chosen})) > 1:
            raise ConfigError(f"{url} holds several formats", found=", ".join(formats), fix="set input_format")
        files += chosen
    return files


_Found = tuple[str, str, int | None, str]  # folder, name, bytes, etag


def _file(found: _Found, wanted: Format | None, several: bool) -> ListFile | None:
    """Return ``found`` as a list file, or None. A file given by path may have any name if its format is ``wanted``."""
    folder, name, size, etag = found
    lower = name.lower().replace(".ndjson", ".jsonl")
    ending = next((form for form in get_args(Format) if lower.endswith(f".{form}")), None)
    if several and (wanted not in (None, ending) or name.startswith((".", "_"))):  # as Spark's own files
        return None
    form = wanted or ending
    return ListFile(folder, name, form, size, etag) if form and (ending or not several) else None


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
    with _translated_errors(url):
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
def _translated_errors(url: str) -> Iterator[None]:
    """Translate backend exceptions, naming the list."""
    try:
        yield
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec's HTTP reports an outage as a missing file; a response has a status
        if cause is not None and unreachable(cause) and getattr(cause, "status", None) is None:
            raise TransientError(f"{url} is not responding", found=str(cause)) from error
        raise ConfigError(f"no list found at {url}", found=str(error)) from None
    except (ImportError, ValueError) as error:  # no package for the protocol; a web server without range requests
        raise ConfigError(
            f"{url} cannot be read remotely", found=str(error), fix="copy it to a local folder or a bucket first"
        ) from None
    except Exception as error:
        if unreachable(error):
            raise TransientError(f"{url} is not responding", found=f"{type(error).__name__}: {error}") from error
        raise

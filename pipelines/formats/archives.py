"""Archive files, local or remote: read lists of them, and read them in spite of network failures.

An archive is at a local path or any URL fsspec knows (``s3://``, ``https://``). Common Crawl publishes lists of the
files of a crawl as ``warc.paths.gz`` and ``wat.paths.gz``.
"""

from __future__ import annotations

import gzip
import io
import logging
import tempfile
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, TypeVar, cast

from infra.cluster import backoff
from infra.errors import DataError, StorageError, TransientError
from infra.store import unreachable

__all__ = ["LISTS", "listed", "open_archive", "read_ranges", "with_prefix"]

log = logging.getLogger(__name__)

LISTS = (".paths", ".paths.gz", ".txt", ".txt.gz")
"""Endings of the names of lists."""

_ATTEMPTS = 7  # over about a minute
_REFUSALS = (401, 403, 404, 410)
_NO_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; Common Crawl is also at "
    "https://data.commoncrawl.org/, without credentials"
)
_TIMEOUT_S = 60.0  # of a silent web server; botocore has the same for S3
_BLOCK = 8 << 20  # bytes per request
_AT_ONCE = 1000  # ranges requested concurrently
_KEPT = 2  # blocks cached, so that a short seek back needs no request

T = TypeVar("T")


def listed(data: bytes, prefix: str = "") -> list[str]:
    """The names in a list of archives, gzipped or not, each once, in order.

    ``prefix`` is put before relative ones. Raises DataError for data that is no such list.
    """
    try:
        text = (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError("not a list of archives", expected="text, also gzipped", found=str(error)) from None
    names = dict.fromkeys(name for line in text.splitlines() if (name := line.strip()))
    if wrong := [name for name in names if not name.isprintable() or "<" in name]:  # such as a web page
        raise DataError("not a list of archives", expected="a path or URL a line", found=repr(wrong[0])[:200])
    return [with_prefix(name, prefix) for name in names]


def with_prefix(path: str, prefix: str) -> str:
    """``path`` below ``prefix``, unless it says itself where it is: ``s3://...``, ``/...``, ``./...``."""
    if not prefix or "://" in path or path.startswith(("/", "./", "../", "~")):
        return path
    return f"{prefix.rstrip('/')}/{path}"


def _filesystem(path: str) -> tuple[Any, str]:
    import fsspec

    options = {}
    if path.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout

        # The default waits five minutes for a silent server, and gives up a file that takes longer than that.
        options["timeout"] = ClientTimeout(total=None, sock_connect=_TIMEOUT_S, sock_read=_TIMEOUT_S)
    try:
        filesystem, place = fsspec.core.url_to_fs(path, **options)
    except (ImportError, ValueError) as error:
        raise StorageError(
            f"{path} cannot be opened", found=str(error), fix="for s3://: pip install 'clipline[s3]'"
        ) from error
    return filesystem, str(place)


@contextmanager
def open_archive(path: str) -> Iterator[BinaryIO]:
    """Open a seekable file for reading; a remote one is read in blocks, each with retries.

    A file on a server without range requests is copied to a temporary file first. Raises DataError if there is no such
    file, and TransientError if it is unreachable for now.
    """
    filesystem, place = _filesystem(path)
    if "://" not in path or "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else ()):
        with open(place, "rb") as local:
            yield local
        return
    size = _with_retries(path, lambda: filesystem.info(place)).get("size")
    blocks = _Blocks(filesystem, place, path, size) if size is not None else None
    if blocks is not None and blocks.is_supported():
        yield cast("BinaryIO", blocks)
        return
    with tempfile.NamedTemporaryFile() as copy:
        _with_retries(path, lambda: filesystem.get_file(place, copy.name))
        with open(copy.name, "rb") as local:
            yield local


Range = tuple[str, int, int]
"""Byte range of a file: path, start, end (exclusive)."""


def read_ranges(folder: str, ranges: Sequence[Range]) -> list[bytes]:
    """Read byte ranges of files in ``folder`` (a path or URL); remote ones many at once."""
    if "://" not in folder:
        return [_local_range(f"{folder}/{path}", start, end) for path, start, end in ranges]
    filesystem, root = _filesystem(folder)
    found: list[bytes] = []
    for first in range(0, len(ranges), _AT_ONCE):
        paths, starts, ends = zip(*ranges[first : first + _AT_ONCE], strict=True)
        places = [f"{root.rstrip('/')}/{path}" for path in paths]
        found += _with_retries(folder, partial(_remote_ranges, filesystem, places, list(starts), list(ends)))
    return found


def _local_range(path: str, start: int, end: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(end - start)


def _remote_ranges(filesystem: Any, places: list[str], starts: list[int], ends: list[int]) -> list[bytes]:  # noqa: ANN401
    found = filesystem.cat_ranges(places, starts, ends)
    for one in found:
        if isinstance(one, Exception):  # older versions of fsspec return exceptions regardless of on_error
            raise one
    return [bytes(one) for one in found]


class _NoRangesError(Exception):
    """The server ignores range requests."""


class _Blocks(io.RawIOBase):
    """Remote file of ``size`` bytes, read in blocks."""

    def __init__(self, filesystem: Any, place: str, name: str, size: int) -> None:  # noqa: ANN401 - fsspec is untyped
        self._filesystem, self._place, self._name, self._size = filesystem, place, name, size
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def is_supported(self) -> bool:
        """Return True if the server supports range requests."""
        try:
            self._block(1 if self._size > _BLOCK else 0)  # not block 0 of several: any server can send the beginning
        except _NoRangesError:
            return False
        return True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Read up to ``size`` bytes, at most to the end of the block; all that is left if ``size`` < 0."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_BLOCK), b""))
        number, start = divmod(self._position, _BLOCK)
        data = self._block(number)[start : start + size] if self._position < self._size else b""
        self._position += len(data)
        return data

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            self._blocks[number] = _with_retries(self._name, lambda: self._fetch(number * _BLOCK))
            while len(self._blocks) > _KEPT:
                self._blocks.popitem(last=False)
        return self._blocks[number]

    def _fetch(self, start: int) -> bytes:
        count = min(_BLOCK, self._size - start)
        # Not cat_file: of a server that ignores the range it would load the whole file into memory.
        with self._filesystem.open(self._place, "rb", cache_type="none") as file:
            if not file.seekable():
                raise _NoRangesError
            file.seek(start)
            try:
                data = bytes(file.read(count))
            except ValueError as error:  # raised by fsspec if the response is too long
                raise _NoRangesError from error
        if len(data) != count:
            raise TransientError(f"{self._name} was truncated", expected=f"{count} bytes", found=f"{len(data)}")
        return data


def _with_retries(name: str, request: Callable[[], T]) -> T:
    """Return ``request()``, retrying failures of network or server with backoff; translates backend exceptions."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return request()
        except PermissionError as error:
            raise DataError(f"no permission to read {name}", found=str(error), fix="check the credentials") from error
        except Exception as error:  # the backends have no common error
            if "Credentials" in type(error).__name__:
                raise StorageError(f"no credentials to read {name}", found=str(error), fix=_NO_CREDENTIALS) from error
            # fsspec reports every failed HTTP request as a missing file; the cause tells them apart.
            cause = error.__cause__
            status = _status(error) or _status(cause)
            lost = isinstance(error, FileNotFoundError) and (cause is None or not unreachable(cause))
            if lost or status in _REFUSALS:
                found = str(cause or error)
                raise DataError(f"{name} not found", found=found, fix="check the path") from error
            if not isinstance(error, (TransientError, FileNotFoundError)) and not unreachable(error):
                raise
            failure = error
        if attempt < _ATTEMPTS:
            log.warning("%s: attempt %d: %r", name, attempt, failure)
            time.sleep(backoff(attempt + 1))
    raise TransientError(
        f"{name} is unreachable", found=f"{type(failure).__name__}: {failure}", fix="run again to continue"
    ) from failure


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status behind an error of aiohttp or botocore."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return cast("int | None", response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    return getattr(error, "status", None)

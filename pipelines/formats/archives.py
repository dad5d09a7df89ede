"""Archive files anywhere: which there are, and reading one to its end although the network breaks.

A path is a local path or any address fsspec knows (``s3://``, ``https://``), with ``*`` where the place can be listed,
or a list of such: Common Crawl publishes the files of a crawl as ``warc.paths.gz`` and ``wat.paths.gz``.
"""

from __future__ import annotations

import gzip
import io
import logging
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, TypeVar, cast

from infra.cluster import backoff
from infra.errors import DataError, StorageError, TransientError
from infra.store import unreachable

__all__ = ["find", "open_archive", "read_ranges"]

log = logging.getLogger(__name__)

_LISTS = (".paths", ".paths.gz", ".txt", ".txt.gz")
_ATTEMPTS = 7  # over about a minute
_REFUSALS = (401, 403, 404, 410)
_NO_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; without such, Common Crawl is to be had from "
    "https://data.commoncrawl.org/"
)
_SILENCE_S = 60.0  # of a web server, as botocore has it for S3
_BLOCK = 8 << 20  # bytes asked for at once
_AT_ONCE = 1000  # ranges asked for at once
_KEPT = 2  # blocks held, so that a step back costs nothing

T = TypeVar("T")


def find(paths: Sequence[str], prefix: str = "", max_files: int | None = None) -> list[str]:
    """The archives that ``paths`` name, each once, in the order given; those of a ``*`` sorted.

    ``prefix`` goes before each path, given or listed, that says nothing of where it is: neither ``s3://...`` nor
    ``/...`` nor ``./...``. Raises DataError if a path names nothing.
    """
    found: dict[str, None] = {}
    for path in paths:
        for name in _expand(_placed(path, prefix), prefix):
            found[name] = None
            if len(found) == max_files:
                return list(found)
    return list(found)


def _placed(path: str, prefix: str) -> str:
    if not prefix or "://" in path or path.startswith(("/", "./", "../", "~")):
        return path
    return f"{prefix.rstrip('/')}/{path}"


def _expand(path: str, prefix: str) -> Iterator[str]:
    filesystem, place = _filesystem(path)
    if path.endswith(_LISTS):
        lines = _patiently(path, lambda: filesystem.cat_file(place))
        if path.endswith(".gz"):
            lines = gzip.decompress(lines)
        for line in lines.decode().splitlines():
            if name := line.strip():
                yield _placed(name, prefix)
    elif "*" in path:
        names = sorted(_patiently(path, lambda: filesystem.glob(place)))
        if not names:
            raise DataError(f"no file is called {path}", fix="check the path; does the place allow listing?")
        yield from (filesystem.unstrip_protocol(name) if "://" in path else name for name in names)
    else:
        if "://" not in path and not os.path.isfile(place):
            raise DataError(
                f"there is no file {path}", expected="a WARC or WAT file, a list of them, or a pattern with *"
            )
        yield path


def _filesystem(path: str) -> tuple[Any, str]:
    import fsspec

    options = {}
    if path.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout

        # By itself it would wait five minutes for a server that fell silent, and give up a whole file after five.
        options["timeout"] = ClientTimeout(total=None, sock_connect=_SILENCE_S, sock_read=_SILENCE_S)
    try:
        filesystem, place = fsspec.core.url_to_fs(path, **options)
    except (ImportError, ValueError) as error:
        raise StorageError(
            f"{path} cannot be opened", found=str(error), fix="for s3://: pip install 'clipline[s3]'"
        ) from error
    return filesystem, str(place)


@contextmanager
def open_archive(path: str) -> Iterator[BinaryIO]:
    """A file for reading that can seek; a remote one is read in blocks, each asked for again if it does not come.

    What cannot be read in blocks (a server without ranges) is copied to a temporary file first. Raises DataError if
    there is no such file and TransientError if it cannot be had for now.
    """
    filesystem, place = _filesystem(path)
    if "://" not in path or "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else ()):
        with open(place, "rb") as local:
            yield local
        return
    size = _patiently(path, lambda: filesystem.info(place)).get("size")
    blocks = _Blocks(filesystem, place, path, size) if size is not None else None
    if blocks is not None and blocks.work():
        yield cast("BinaryIO", blocks)
        return
    with tempfile.NamedTemporaryFile() as copy:
        _patiently(path, lambda: filesystem.get_file(place, copy.name))
        with open(copy.name, "rb") as local:
            yield local


Range = tuple[str, int, int]
"""Bytes of a file: its path, the first of them, the one behind the last."""


def read_ranges(folder: str, ranges: Sequence[Range]) -> list[bytes]:
    """Parts of files in the folder (a path or an address) of a store; from elsewhere, many at once."""
    if "://" not in folder:
        return [_local_range(f"{folder}/{path}", start, end) for path, start, end in ranges]
    filesystem, root = _filesystem(folder)
    found: list[bytes] = []
    for first in range(0, len(ranges), _AT_ONCE):
        paths, starts, ends = zip(*ranges[first : first + _AT_ONCE], strict=True)
        places = [f"{root.rstrip('/')}/{path}" for path in paths]
        found += _patiently(folder, partial(_remote_ranges, filesystem, places, list(starts), list(ends)))
    return found


def _local_range(path: str, start: int, end: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(end - start)


def _remote_ranges(filesystem: Any, places: list[str], starts: list[int], ends: list[int]) -> list[bytes]:  # noqa: ANN401
    found = filesystem.cat_ranges(places, starts, ends)
    for one in found:
        if isinstance(one, Exception):  # older versions of fsspec return them whatever they are told
            raise one
    return [bytes(one) for one in found]


class _NoRangesError(Exception):
    """The server sends more than it was asked for."""


class _Blocks(io.RawIOBase):
    """A remote file of ``size`` bytes as blocks."""

    def __init__(self, filesystem: Any, place: str, name: str, size: int) -> None:  # noqa: ANN401 - fsspec is untyped
        self._filesystem, self._place, self._name, self._size = filesystem, place, name, size
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def work(self) -> bool:
        """Whether the file can be read so."""
        try:
            self._block(1 if self._size > _BLOCK else 0)  # any server can begin at the beginning
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
        """Up to ``size`` bytes, as many as there are until the block's end; all that is left if ``size`` < 0."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_BLOCK), b""))
        number, start = divmod(self._position, _BLOCK)
        data = self._block(number)[start : start + size] if self._position < self._size else b""
        self._position += len(data)
        return data

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            self._blocks[number] = _patiently(self._name, lambda: self._fetch(number * _BLOCK))
            while len(self._blocks) > _KEPT:
                self._blocks.popitem(last=False)
        return self._blocks[number]

    def _fetch(self, start: int) -> bytes:
        count = min(_BLOCK, self._size - start)
        # Not cat_file: a server that ignores the range would fill the memory with the whole file.
        with self._filesystem.open(self._place, "rb", cache_type="none") as file:
            if not file.seekable():
                raise _NoRangesError
            file.seek(start)
            try:
                data = bytes(file.read(count))
            except ValueError as error:  # fsspec's word for too much
                raise _NoRangesError from error
        if len(data) != count:
            raise TransientError(f"{self._name} broke off", expected=f"{count} bytes", found=f"{len(data)}")
        return data


def _patiently(name: str, ask: Callable[[], T]) -> T:
    """What ``ask`` gives, asked again after a while if the network or the server has failed."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return ask()
        except PermissionError as error:
            raise DataError(f"{name} may not be read", found=str(error), fix="are credentials needed?") from error
        except Exception as error:  # the backends have no common error
            if "Credentials" in type(error).__name__:
                raise StorageError(f"no credentials to read {name}", found=str(error), fix=_NO_CREDENTIALS) from error
            # fsspec says of every failed HTTP request that there is no such file; the cause tells.
            cause = error.__cause__
            status = _status(error) or _status(cause)
            lost = isinstance(error, FileNotFoundError) and (cause is None or not unreachable(cause))
            if lost or status in _REFUSALS:
                found = str(cause or error)
                raise DataError(f"{name} cannot be had", found=found, fix="is the path right?") from error
            if not isinstance(error, (TransientError, FileNotFoundError)) and not unreachable(error):
                raise
            failure = error
        if attempt < _ATTEMPTS:
            log.warning("%s: attempt %d: %r", name, attempt, failure)
            time.sleep(backoff(attempt + 1))
    raise TransientError(
        f"{name} cannot be read for now", found=f"{type(failure).__name__}: {failure}", fix="run again to continue"
    ) from failure


def _status(error: BaseException | None) -> int | None:
    """The status of the HTTP answer behind an error of aiohttp or botocore."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return cast("int | None", response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    return getattr(error, "status", None)

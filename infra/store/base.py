"""The interface of a store: the same few operations on a local folder and on an object store.

A :class:`Store` is a folder, named by a path or an fsspec URL (``s3://bucket/prefix``). What is written appears whole
or not at all. A store that does not answer is a TransientError, never a missing file.
"""

from __future__ import annotations

import copy
import hashlib
import io
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Self

from infra.errors import StorageError

__all__ = ["TEMP_PREFIX", "Publication", "Store", "clean_path"]

TEMP_PREFIX = ".tmp-"
"""Beginning of the names of files that are being written."""


class Publication(io.RawIOBase):
    """A sequential binary writer that counts the bytes written and computes their sha256."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink, self._hash, self.size = sink, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - the buffer protocol has no name in 3.11
        self._sink.write(data)
        self._hash.update(data)
        count = memoryview(data).nbytes
        self.size += count
        return count

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._sink.flush()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class Store(ABC):
    """A folder. Paths are relative, with forward slashes, and never leave it: StorageError for one with ``..``."""

    url: str
    _fence: Callable[[], None] | None = None

    def fenced(self, fence: Callable[[], None] | None) -> Self:
        """The same folder, in which nothing is written or removed before ``fence()``, which raises if it must not be.

        It is asked when a file is about to appear, not when its writing begins.
        """
        other = copy.copy(self)
        other._fence = fence
        return other

    def _ask(self) -> None:
        if self._fence is not None:
            self._fence()

    @abstractmethod
    def child(self, path: str) -> Store:
        """The store of the folder ``path`` below this one, with the same fence; it need not exist."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Read the whole file. Raises FileNotFoundError."""

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        """Read whole files, in that order. Raises FileNotFoundError."""
        return [self.read(path) for path in paths]

    def read_there(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Read those of the files that are there, in that order, by path."""
        found = {}
        for path in paths:
            with suppress(FileNotFoundError):
                found[path] = self.read(path)
        return found

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """The bytes from the first to before the second offset of each path, in that order, and no others are read.

        Raises FileNotFoundError.
        """
        found = []
        for path, start, end in ranges:
            with self.open(path) as file:
                file.seek(start)
                found.append(file.read(end - start))
        return found

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """Open the file for sequential reading. Raises FileNotFoundError."""

    def open_scattered(self, path: str) -> BinaryIO:
        """Open the file for reading a few places of it: nothing is read ahead. Raises FileNotFoundError."""
        return self.open(path)

    @abstractmethod
    def publish(self, path: str) -> AbstractContextManager[Publication]:
        """Context manager giving a :class:`Publication`; the file appears when the block ends without an error."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Write ``path`` only if it does not exist, decided atomically; False if it does."""

    @abstractmethod
    def append(self, path: str, data: bytes) -> None:
        """Add whole lines to the end of ``path`` (object stores: as a numbered part, see :mod:`infra.store.parts`)."""

    @abstractmethod
    def read_appended(self, path: str, start: int = 0) -> tuple[bytes, int]:
        """Read the whole lines appended to ``path`` since position ``start``; they and the position after them."""

    @abstractmethod
    def paths(self, prefix: str = "") -> list[str]:
        """Every file below the folder ``prefix``, recursively, as sorted paths relative to this store."""

    def glob(self, pattern: str) -> list[str]:
        """Files that match ``pattern``, sorted: ``*`` and ``?`` within a name, ``**`` across folders."""
        from fsspec.utils import glob_translate

        matches = re.compile(glob_translate(pattern)).match
        return [path for path in self.paths() if matches(path)]

    @abstractmethod
    def folders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly below ``prefix``, sorted."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """True if there is a file at ``path``."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Bytes in ``path``. Raises FileNotFoundError."""

    @abstractmethod
    def change_token(self, path: str) -> str:
        """Cheap change token (ETag, or size and mtime): differs when ``path`` holds other bytes.

        Raises FileNotFoundError.
        """

    def etag(self, path: str) -> str:
        """The store's own digest of a file's content, "" if it keeps none. Raises FileNotFoundError."""
        return ""

    def facts(self, paths: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Size and :meth:`etag` of each of ``paths``, in that order. Raises FileNotFoundError."""
        return {path: (self.size(path), self.etag(path)) for path in paths}

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of every file below the folder ``prefix``, also of those that killed writers left unfinished."""
        return {path: self.size(path) for path in self.paths(prefix)}

    def locate(self, path: str) -> str:
        """Path or URL of a file, for people and other programs."""
        return f"{self.url}/{path}" if path else self.url

    def local_path(self, path: str) -> Path | None:
        """Return the location of ``path`` on this machine's disk; None for a remote store."""
        return None

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file or a whole folder; no error if it is not there."""

    def delete_all(self, paths: Sequence[str]) -> None:
        """Remove files; no error for those that are not there."""
        for path in paths:
            self.delete(path)

    def sweep(self, prefix: str) -> None:  # noqa: B027 - an object appears whole or not at all
        """Remove the temporary files of killed writers below ``prefix``."""

    @abstractmethod
    def fetch(self, path: str, to: Path) -> Path:
        """A local path holding ``path``'s bytes: the file itself if it is local, else a copy below ``to``."""

    def write(self, path: str, data: bytes) -> None:
        """Replace ``path`` by ``data``, atomically."""
        with self.publish(path) as out:
            out.write(data)

    def put(self, path: str, local: Path) -> None:
        """Publish a local file as ``path``."""
        with local.open("rb") as source, self.publish(path) as out:
            shutil.copyfileobj(source, out, 1 << 20)

    def digest(self, path: str) -> str:
        """sha256 of the file, hex."""
        sha256 = hashlib.sha256()
        with self.open(path) as file:
            while block := file.read(1 << 20):
                sha256.update(block)
        return sha256.hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def clean_path(path: str) -> str:
    """``path`` without empty and ``.`` parts. Raises StorageError if it is absolute or holds ``..``."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or path.startswith("/"):
        raise StorageError(f"{path!r} leaves its store", expected="a relative path without '..'")
    return "/".join(parts)

"""Identify files by content: the store's ETag where it keeps one, else a sha256 that is remembered between runs.

Reading a terabyte to plan a run would be absurd, reading it once to know what a model was trained on is not. So
digests of local files are kept in a small database in the user's cache folder, by path, size, modification time and
inode, and a file is read again only when one of these has changed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from infra.cache import cache_folder
from infra.store.base import Store

__all__ = ["Content", "contents"]

log = logging.getLogger(__name__)

_LARGE = 1 << 30
"""Bytes to read from which on the wait is announced."""
_SETTLED_S = 2.0
"""A file changed within so many seconds may change again within the same tick of its clock: not remembered."""


@dataclass(frozen=True)
class Content:
    """Size of a file, and its sha256 (hex) or its store's ETag."""

    bytes: int
    sha256: str = ""
    etag: str = ""


def contents(store: Store, paths: Sequence[str], cache: Path | None = None) -> dict[str, Content]:
    """The content of each of ``paths``, in that order. Raises FileNotFoundError.

    ``cache``: database file; by default ``clipline/digests.sqlite`` in the user's cache folder.
    """
    if not paths:
        return {}
    with ThreadPoolExecutor(8 if store.local_path(paths[0]) is None else os.cpu_count() or 1) as pool:
        if store.local_path(paths[0]) is None:
            facts = store.facts(paths)
            unnamed = [path for path, (_, etag) in facts.items() if not etag]
            digests = dict(zip(unnamed, pool.map(store.digest, unnamed), strict=True))
            return {path: Content(size, digests.get(path, ""), etag) for path, (size, etag) in facts.items()}
        with closing(_Digests(cache or cache_folder() / "digests.sqlite")) as known:
            return _local(store, paths, known, pool)


def _local(store: Store, paths: Sequence[str], known: _Digests, pool: ThreadPoolExecutor) -> dict[str, Content]:
    files = {path: _File.of(store, path) for path in paths}
    found = {path: known.get(file) for path, file in files.items()}
    unknown = [path for path, digest in found.items() if digest is None]
    total = sum(files[path].size for path in unknown)
    if total >= _LARGE:
        log.warning(
            "reading %d files (%.1f GB) at %s once, to identify them by content", len(unknown), total / 1e9, store.url
        )
    for path, digest in zip(unknown, pool.map(store.digest, unknown), strict=True):
        found[path] = digest
        known.put(files[path], digest)
    return {path: Content(file.size, sha256=found[path] or "") for path, file in files.items()}


@dataclass(frozen=True)
class _File:
    path: str
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, store: Store, path: str) -> _File:
        place = store.local_path(path)
        assert place is not None
        facts = place.stat()
        return cls(str(place), facts.st_size, facts.st_mtime_ns, facts.st_ino)


_TABLE = "digests (path text primary key, size int, mtime int, inode int, sha256 text)"


class _Digests:
    """sha256 by file; without a writable cache folder nothing is remembered."""

    def __init__(self, file: Path) -> None:
        self._new: list[tuple[str, int, int, int, str]] = []
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(file, timeout=10)
            self._database.execute(f"create table if not exists {_TABLE}")
        except (OSError, sqlite3.Error) as error:
            log.warning("digests of files are not remembered: %s", error)
            self._database = sqlite3.connect(":memory:")
            self._database.execute(f"create table {_TABLE}")

    def get(self, file: _File) -> str | None:
        row = self._database.execute(
            "select sha256 from digests where path = ? and size = ? and mtime = ? and inode = ?",
            (file.path, file.size, file.mtime_ns, file.inode),
        ).fetchone()
        return None if row is None else str(row[0])

    def put(self, file: _File, sha256: str) -> None:
        if time.time() - file.mtime_ns / 1e9 > _SETTLED_S:
            self._new.append((file.path, file.size, file.mtime_ns, file.inode, sha256))

    def close(self) -> None:
        try:
            with self._database:
                self._database.executemany("insert or replace into digests values (?, ?, ?, ?, ?)", self._new)
        except sqlite3.Error as error:
            log.warning("digests of files are not remembered: %s", error)
        self._database.close()

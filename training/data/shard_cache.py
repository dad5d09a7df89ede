"""A cache of remote shards on a node's disk, shared by its processes, of limited size.

A copy gets its final name only when it is complete and of the right size (and content, where a sha256 is known), so a
killed download leaves nothing that could be taken for a shard. A lock per shard, which the kernel releases when its
holder dies, keeps processes from downloading the same one twice. When room is needed the least recently used copies are
removed; a process that has one open can still read it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import ConfigError, DataError, StorageError
from infra.store import sync

if TYPE_CHECKING:
    from infra.store import Store

__all__ = ["Shard", "ShardCache"]

PARALLEL_LOOKUPS = 16  # in a store; each takes some 50 ms
WAIT_S = 0.05  # between two attempts to make room
_PARTIAL = ".tmp-"
KEY = "[0-9a-f]" * 24


@dataclass(frozen=True)
class Shard:
    """A tar in a store, with its sha256 if a manifest gives one."""

    store: Store
    path: str
    sha256: str = ""

    @property
    def local(self) -> Path | None:
        """The tar itself, if it lies on this machine or a mounted file system."""
        return self.store.local_path(self.path)

    def name(self) -> str:
        """Return an identity of its content: its sha256, or else its URL and its version in the store.

        Raises DataError if there is no such file.
        """
        if self.sha256:
            return self.sha256
        place = f"{self.store.url}/{self.path}"
        try:
            return f"{place} {self.store.change_token(self.path)}"
        except FileNotFoundError:
            raise DataError("a shard is not there", found=place) from None


class ShardCache:
    """Gives each of ``shards`` as a local file: itself if it is local, else a copy below ``folder``.

    ``limit`` is the most bytes that copies may take on this node; None: as many as the disk holds.
    """

    def __init__(self, shards: Sequence[Shard], folder: Path, limit: int | None = None) -> None:
        self.shards, self.folder, self.limit = shards, folder / "shards", limit
        self._local = [shard.local for shard in shards]
        with ThreadPoolExecutor(PARALLEL_LOOKUPS, "shard-names") as pool:
            self.names = list(pool.map(Shard.name, shards))
        keys = (hashlib.sha256(name.encode()).hexdigest()[:24] for name in self.names)  # what KEY looks for
        self._targets = [self.folder / key / Path(shard.path).name for key, shard in zip(keys, shards, strict=True)]

    def remote(self, number: int) -> bool:
        """Return whether shard ``number`` must be downloaded."""
        return self._local[number] is None

    def path(self, number: int) -> Path:
        """Return shard ``number`` as a local file, downloading it if necessary.

        Raises DataError if it is missing or not what its manifest says, StorageError if the disk is full,
        TransientError if the store does not answer.
        """
        if (local := self._local[number]) is not None:
            return local
        target = self._targets[number]
        if not target.exists():
            with self._locked(target.parent.with_suffix(".lock")):
                if not target.exists():
                    self._download(self.shards[number], target)
        with contextlib.suppress(FileNotFoundError):  # another process removed it; the reader calls again
            os.utime(target)
        return target

    def check_room(self, numbers: Sequence[int], fix: str) -> None:
        """Raise ConfigError, with the hint ``fix``, if the cache cannot hold these shards at the same time."""
        if self.limit is not None:
            needed = sum(self.shards[n].store.size(self.shards[n].path) for n in numbers if self.remote(n))
            if needed > self.limit:
                raise ConfigError(
                    "the shards that are needed at the same time do not fit the local cache",
                    expected=f"at most {self.limit:,} bytes",
                    found=f"{needed:,} bytes",
                    fix=fix,
                )

    def _download(self, shard: Shard, target: Path) -> None:
        place = f"{shard.store.url}/{shard.path}"
        try:
            size = shard.store.size(shard.path)
            partial = target.with_name(f"{_PARTIAL}{secrets.token_hex(4)}")
            self._reserve(size, partial)
            try:
                arrived, sha256 = _copy(shard, partial)
                if arrived != size or (shard.sha256 and sha256 != shard.sha256):
                    raise DataError(
                        "a shard did not arrive as it was written",
                        expected=f"{size} bytes {shard.sha256}".strip(),
                        found=f"{arrived} bytes {sha256} from {place}",
                        fix="run again; if it fails again, the shard is damaged in its store",
                    )
                sync(partial)  # or after a loss of power the copy may have its name and not its bytes
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
        except FileNotFoundError as error:
            raise DataError("a shard is not there", found=place) from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            raise StorageError(
                f"a shard cannot be copied to {self.folder}",
                expected=f"room for {size:,} bytes",
                found=f"{error.strerror}, {shutil.disk_usage(self.folder).free:,} bytes free",
                fix="make room, name another cache_folder, or train with shuffle='window' and a smaller disk_cache_gb",
            ) from error

    def _reserve(self, size: int, partial: Path) -> None:
        """Reserve ``size`` bytes by creating ``partial`` at that size; wait while other downloads leave no room."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.limit is not None and size > self.limit:
            raise ConfigError(
                "a shard is larger than the local cache", expected=f"<= {self.limit:,} bytes", found=f"{size:,} bytes"
            )
        while True:
            with self._locked(self.folder / "room.lock"):
                if self.limit is None or self._make_room(self.limit - size):
                    shutil.rmtree(partial.parent, ignore_errors=True)  # leftovers of a killed download
                    partial.parent.mkdir()
                    with partial.open("xb") as reserved:
                        reserved.truncate(size)
                    return
            time.sleep(WAIT_S)

    def _make_room(self, most: int) -> bool:
        """Remove least recently used copies until all take at most ``most`` bytes; return whether that succeeded."""
        copies, taken = [], 0
        for path in self.folder.glob(f"{KEY}/*"):  # other files there are never removed
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                taken += facts.st_size
                if not path.name.startswith(_PARTIAL) or _abandoned(path):
                    copies.append((facts.st_mtime_ns, facts.st_size, path))
        for _, freed, path in sorted(copies):
            if taken <= most:
                break
            path.unlink(missing_ok=True)
            taken -= freed
        return taken <= most

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _abandoned(partial: Path) -> bool:
    """Return whether the process that was downloading it has died, which releases its lock."""
    with partial.parent.with_suffix(".lock").open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _copy(shard: Shard, to: Path) -> tuple[int, str]:
    """Copy ``shard`` over the file ``to``; return the number of bytes and their sha256."""
    arrived, size = hashlib.sha256(), 0
    with shard.store.open(shard.path) as source, to.open("r+b") as sink:
        while chunk := source.read(4 << 20):
            arrived.update(chunk)
            size += sink.write(chunk)
        sink.truncate()
    return size, arrived.hexdigest()

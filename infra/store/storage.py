"""One small storage layer: the same few verbs on a local folder and on an object store.

A :class:`Store` is a folder, named by a path or an fsspec URL (``s3://bucket/prefix``). Whatever is written appears
whole or not at all: temp file, fsync and rename locally; one conditional or multipart put on object stores. A store
that does not answer is a TransientError, never a file that is not there.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from infra.errors import StorageError, TransientError

__all__ = ["LocalStore", "ObjectStore", "Publication", "Store", "open_store", "unreachable"]

_TEMP_PREFIX = ".tmp-"


class Publication(io.RawIOBase):
    """A sequential binary writer that knows how many bytes passed and their sha256."""

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
    """A folder. Paths are relative, with forward slashes, and never leave it."""

    url: str

    @abstractmethod
    def child(self, path: str) -> Store:
        """The folder ``path`` below this one; it need not exist."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        """The files in that order. Raises FileNotFoundError."""
        return [self.read(path) for path in paths]

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """The file for sequential reading. Raises FileNotFoundError."""

    @abstractmethod
    def publish(self, path: str) -> Any:  # noqa: ANN401 - a context manager of Publication
        """Context manager giving a :class:`Publication`; the file appears when the block ends without an error."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Write ``path`` only if it does not exist, decided atomically; False if it does."""

    @abstractmethod
    def append(self, path: str, data: bytes) -> None:
        """Add whole lines to the end of ``path`` (object stores: as a numbered part)."""

    @abstractmethod
    def read_appended(self, path: str, start: int = 0) -> tuple[bytes, int]:
        """The whole lines appended to ``path`` since position ``start``, and the position after them."""

    @abstractmethod
    def paths(self, prefix: str = "") -> list[str]:
        """Every file below the folder ``prefix``, recursively, as sorted paths relative to this store."""

    @abstractmethod
    def folders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly below ``prefix``, sorted."""

    @abstractmethod
    def exists(self, path: str) -> bool: ...

    @abstractmethod
    def size(self, path: str) -> int:
        """Bytes in ``path``. Raises FileNotFoundError."""

    @abstractmethod
    def version(self, path: str) -> str:
        """What is another when ``path`` holds other bytes, without reading them. Raises FileNotFoundError."""

    def etag(self, path: str) -> str:
        """The store's own digest of a file's content, "" if it keeps none. Raises FileNotFoundError."""
        return ""

    def locate(self, path: str) -> str:
        """Path or URL of a file, for people and other programs."""
        return f"{self.url}/{path}" if path else self.url

    def local_path(self, path: str) -> Path | None:
        """Where ``path`` lies on this machine's disk; None for a store elsewhere."""
        return None

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file or a whole folder; no error if it is not there."""

    def sweep(self, prefix: str) -> None:  # noqa: B027 - an object appears whole or not at all
        """Remove what killed writers left half-written below ``prefix``."""

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


def _clean(path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or path.startswith("/"):
        raise StorageError(f"{path!r} leaves its store", expected="a relative path without '..'")
    return "/".join(parts)


class LocalStore(Store):
    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.url = str(self.root)

    def path(self, path: str) -> Path:
        return self.root / _clean(path)

    def local_path(self, path: str) -> Path | None:
        return self.path(path)

    def child(self, path: str) -> LocalStore:
        return LocalStore(self.path(path))

    def read(self, path: str) -> bytes:
        return self.path(path).read_bytes()

    def open(self, path: str) -> BinaryIO:
        return self.path(path).open("rb")

    @contextmanager
    def publish(self, path: str) -> Iterator[Publication]:
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temp = target.parent / f"{_TEMP_PREFIX}{target.name}.{secrets.token_hex(4)}"
        try:
            with temp.open("xb") as sink:
                with Publication(sink) as out:
                    yield out
                sink.flush()
                os.fsync(sink.fileno())
            temp.replace(target)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temp = target.parent / f"{_TEMP_PREFIX}{target.name}.{secrets.token_hex(4)}"
        try:
            with temp.open("xb") as sink:
                sink.write(data)
                sink.flush()
                os.fsync(sink.fileno())
            # link() fails if the name exists, so content and name appear in one step.
            os.link(temp, target)
        except FileExistsError:
            return False
        finally:
            temp.unlink(missing_ok=True)
        _sync_folder(target.parent)
        return True

    def append(self, path: str, data: bytes) -> None:
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab") as sink:
            sink.write(data)

    def read_appended(self, path: str, start: int = 0) -> tuple[bytes, int]:
        target = self.path(path)
        if not target.exists():
            return b"", start
        with target.open("rb") as source:
            source.seek(start)
            data = source.read()
        whole = data[: data.rfind(b"\n") + 1]  # another thread may be in the middle of a line
        return whole, start + len(whole)

    def paths(self, prefix: str = "") -> list[str]:
        start = len(self.url.rstrip("/")) + 1
        return sorted(
            f"{folder}/{name}"[start:]
            for folder, _, names in os.walk(self.path(prefix))
            for name in names
            if not name.startswith(_TEMP_PREFIX)
        )

    def folders(self, prefix: str = "") -> list[str]:
        base = self.path(prefix)
        return sorted(item.name for item in base.iterdir() if item.is_dir()) if base.is_dir() else []

    def exists(self, path: str) -> bool:
        return self.path(path).exists()

    def size(self, path: str) -> int:
        return self.path(path).stat().st_size

    def version(self, path: str) -> str:
        facts = self.path(path).stat()
        return f"{facts.st_size} {facts.st_mtime_ns}"

    def delete(self, path: str) -> None:
        target = self.path(path)
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def sweep(self, prefix: str) -> None:
        for temp in self.path(prefix).rglob(f"{_TEMP_PREFIX}*"):
            temp.unlink(missing_ok=True)

    def fetch(self, path: str, to: Path) -> Path:
        if not self.path(path).exists():
            raise FileNotFoundError(self.path(path))
        return self.path(path)


def _sync_folder(folder: Path) -> None:
    # Without this a rename may be lost on power failure although the file's bytes are safe.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class ObjectStore(Store):
    """Any fsspec filesystem that can create exclusively (s3fs, gcsfs, memory)."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._appended: dict[str, int] = {}  # parts known to be there, by path
        self._connect()

    def _connect(self) -> None:
        import fsspec

        try:
            # Without its cache of listings: other processes write here, and what they wrote must be seen.
            self._filesystem, base = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:  # no package, or nobody knows the protocol
            raise StorageError(
                f"no store can be opened at {self.url}", found=str(error), fix="for s3://: pip install 'clipline[s3]'"
            ) from error
        self._base, self._pid = str(base), os.getpid()

    @property
    def _fs(self) -> Any:  # noqa: ANN401 - fsspec is untyped
        if self._pid != os.getpid():  # a filesystem does not survive a fork, such as a data loader's
            self._connect()
        return self._filesystem

    def __reduce__(self) -> tuple[object, ...]:
        return (ObjectStore, (self.url,))

    def _at(self, path: str) -> str:
        clean = _clean(path)
        return f"{self._base}/{clean}" if clean else self._base

    def child(self, path: str) -> ObjectStore:
        return ObjectStore(f"{self.url}/{_clean(path)}")

    def read(self, path: str) -> bytes:
        with _named(self.url):
            return bytes(self._fs.cat_file(self._at(path)))

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        places = [self._at(path) for path in paths]
        with _named(self.url):
            found = self._fs.cat(places) if places else {}  # many at once
        return [bytes(found[place]) for place in places]

    def open(self, path: str) -> BinaryIO:
        with _named(self.url):
            handle: BinaryIO = self._fs.open(self._at(path), "rb")
            return handle

    @contextmanager
    def publish(self, path: str) -> Iterator[Publication]:
        # Staged locally: an object appears only with its last byte, and a failed write leaves no part uploads behind.
        import tempfile

        with tempfile.NamedTemporaryFile() as sink:
            with Publication(sink) as out:
                yield out
            sink.flush()
            with _named(self.url):
                self._fs.put_file(sink.name, self._at(path))

    def create(self, path: str, data: bytes) -> bool:
        try:
            with _named(self.url):
                self._fs.pipe_file(self._at(path), data, mode="create")
        except FileExistsError:
            return False
        except (OSError, TransientError):
            # Not every server refuses in the words s3fs knows, and an answer may be lost after the file was made.
            if self.exists(path):
                return self.read(path) == data
            raise
        return True

    def append(self, path: str, data: bytes) -> None:
        number = self._appended.get(path)
        if number is None:
            number = len(self.paths(path))
        while not self.create(f"{path}/{number:08d}", data):
            number += 1
        self._appended[path] = number + 1

    def read_appended(self, path: str, start: int = 0) -> tuple[bytes, int]:
        parts = self.paths(path)
        return b"".join(self.read_all(parts[start:])), max(start, len(parts))

    def paths(self, prefix: str = "") -> list[str]:
        start, folder = len(self._base) + 1, f"{self._at(prefix)}/"
        with _named(self.url):
            return sorted(name[start:] for name in self._fs.find(folder) if name.startswith(folder))

    def folders(self, prefix: str = "") -> list[str]:
        try:
            with _named(self.url):
                entries = self._fs.ls(self._at(prefix), detail=True)
        except FileNotFoundError:
            return []
        return sorted(item["name"].rstrip("/").rpartition("/")[2] for item in entries if item["type"] == "directory")

    def exists(self, path: str) -> bool:
        try:
            with _named(self.url):  # not the filesystem's own exists(): some take an outage for an absence
                self._fs.info(self._at(path))
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        with _named(self.url):
            return int(self._fs.size(self._at(path)))

    def version(self, path: str) -> str:
        with _named(self.url):
            return str(self._fs.ukey(self._at(path)))

    def etag(self, path: str) -> str:
        with _named(self.url):
            facts = self._fs.info(self._at(path))
        return str(facts.get("ETag") or facts.get("etag") or "").strip('"')

    def delete(self, path: str) -> None:
        self._appended.clear()
        if self.exists(path):
            with _named(self.url):
                self._fs.rm(self._at(path), recursive=True)

    def fetch(self, path: str, to: Path) -> Path:
        with _named(self.url):
            version = self._fs.ukey(self._at(path))  # of the object, so that one replaced since is not taken for it
            target = to / hashlib.sha256(f"{self.url}/{path} {version}".encode()).hexdigest()[:16] / Path(path).name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f"{_TEMP_PREFIX}{secrets.token_hex(4)}")
                self._fs.get_file(self._at(path), str(partial))
                partial.replace(target)
        return target


_BUSY = {errno.EBUSY, errno.EIO, getattr(errno, "EREMOTEIO", errno.EIO)}
_BACKENDS = {"aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "urllib3"}


def unreachable(error: BaseException) -> bool:
    """Whether the error says that a store did not answer or was too busy. Most of the backends' are no OSError."""
    if type(error).__module__.partition(".")[0] in _BACKENDS:  # some of them OSErrors, as aiohttp's of a closed port
        return "Credentials" not in type(error).__name__
    return isinstance(error, OSError) and (isinstance(error, (ConnectionError, TimeoutError)) or error.errno in _BUSY)


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Give a backend's failures the names the rest of clipline knows."""
    try:
        yield
    except Exception as error:
        if unreachable(error):
            raise TransientError(f"{url} does not answer", found=f"{type(error).__name__}: {error}") from error
        if "Credentials" in type(error).__name__:
            raise StorageError(
                f"no credentials for {url}",
                found=str(error),
                fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            ) from error
        raise


def open_store(url: str | Path) -> Store:
    """The store at a local path, a ``file://`` URL or any fsspec URL."""
    text = str(url)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    return ObjectStore(text) if "://" in text else LocalStore(text)

"""A store in a bucket, or at any other address that fsspec knows."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from infra.errors import CredentialsError, StorageError, TransientError
from infra.extras import install, missing
from infra.store.base import TEMP_PREFIX, Publication, Store, clean_path
from infra.store.local import sync
from infra.store.parts import Parts

__all__ = ["ObjectStore", "unreachable"]


class ObjectStore(Store):
    """Any fsspec filesystem that can create exclusively (s3fs, gcsfs, memory)."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._appended: dict[str, Parts] = {}  # by path
        self._connect()

    def _connect(self) -> None:
        import fsspec

        try:
            # Without its cache of listings, which would hide what other processes write here.
            self._filesystem, base = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:  # a package is missing, or the protocol is unknown
            fix = install(["s3"]) if self.url.startswith("s3") and missing("s3") else ""
            raise StorageError(f"no store can be opened at {self.url}", found=str(error), fix=fix) from error
        self._base, self._pid = str(base), os.getpid()

    @property
    def _fs(self) -> Any:  # noqa: ANN401 - fsspec is untyped
        if self._pid != os.getpid():  # a filesystem does not survive a fork, such as a data loader's
            self._connect()
        return self._filesystem

    def __reduce__(self) -> tuple[object, ...]:
        return (ObjectStore, (self.url,), {"_fence": self._fence})

    def _at(self, path: str) -> str:
        clean = clean_path(path)
        return f"{self._base}/{clean}" if clean else self._base

    def child(self, path: str) -> ObjectStore:
        below = ObjectStore(f"{self.url}/{clean_path(path)}")
        below._fence = self._fence
        return below

    def read(self, path: str) -> bytes:
        with _translated_errors(self.url):
            return bytes(self._fs.cat_file(self._at(path)))

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        with _translated_errors(self.url):
            return [bytes(data) for data in self._read_whole(paths, "raise")]

    def read_there(self, paths: Sequence[str]) -> dict[str, bytes]:
        with _translated_errors(self.url):
            found = dict(zip(paths, self._read_whole(paths, "return"), strict=True))
            for data in found.values():
                if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
                    raise data
        return {path: bytes(data) for path, data in found.items() if not isinstance(data, Exception)}

    def _read_whole(self, paths: Sequence[str], on_error: str) -> list[Any]:
        # Many at once, a request each: the filesystem's cat() would first ask for each whether it is there, and s3fs
        # for its size, to read a large one in parts.
        places, whole = [self._at(path) for path in paths], {"max_concurrency": 1} if self.url.startswith("s3") else {}
        return list(self._fs.cat_ranges(places, None, None, on_error=on_error, **whole)) if places else []

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        wanted = [(self._at(path), start, end) for path, start, end in ranges if start < end]  # none has 0 bytes
        with _translated_errors(self.url):
            columns = map(list, zip(*wanted, strict=True))
            found = iter(self._fs.cat_ranges(*columns, on_error="raise") if wanted else ())  # many at once
        return [bytes(next(found)) if start < end else b"" for _, start, end in ranges]

    def open(self, path: str) -> BinaryIO:
        with _translated_errors(self.url):
            handle: BinaryIO = self._fs.open(self._at(path), "rb")
            return handle

    def open_scattered(self, path: str) -> BinaryIO:
        with _translated_errors(self.url):
            handle: BinaryIO = self._fs.open(self._at(path), "rb", cache_type="none")
            return handle

    @contextmanager
    def publish(self, path: str) -> Iterator[Publication]:
        # Staged locally: an object appears only with its last byte, and a failed write leaves no part uploads behind.
        with tempfile.NamedTemporaryFile() as sink:
            with Publication(sink) as out:
                yield out
            sink.flush()
            self._ask()
            with _translated_errors(self.url):
                self._fs.put_file(sink.name, self._at(path))

    def create(self, path: str, data: bytes) -> bool:
        self._ask()
        try:
            with _translated_errors(self.url):
                self._fs.pipe_file(self._at(path), data, mode="create")
        except FileExistsError:
            return False
        except (OSError, TransientError, CredentialsError):
            # Not every server refuses with an error that s3fs knows, and a reply may be lost after the file was made.
            if self.exists(path):
                return self.read(path) == data
            raise
        return True

    def append(self, path: str, data: bytes) -> None:
        self._parts(path).append(data)

    def read_appended(self, path: str, start: int = 0) -> tuple[bytes, int]:
        return self._parts(path).read(start)

    def _parts(self, path: str) -> Parts:
        return self._appended.setdefault(path, Parts(self, path))

    def paths(self, prefix: str = "") -> list[str]:
        start, folder = len(self._base) + 1, f"{self._at(prefix)}/"
        with _translated_errors(self.url):
            return sorted(name[start:] for name in self._fs.find(folder) if name.startswith(folder))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        start, folder = len(self._base) + 1, f"{self._at(prefix)}/"
        with _translated_errors(self.url):
            found = self._fs.find(folder, detail=True)
        return {name[start:]: int(facts["size"]) for name, facts in sorted(found.items()) if name.startswith(folder)}

    def glob(self, pattern: str) -> list[str]:
        with _translated_errors(self.url):
            found = self._fs.glob(self._at(pattern), detail=True)
        return sorted(path[len(self._base) + 1 :] for path, facts in found.items() if facts["type"] == "file")

    def folders(self, prefix: str = "") -> list[str]:
        try:
            with _translated_errors(self.url):
                entries = self._fs.ls(self._at(prefix), detail=True)
        except FileNotFoundError:
            return []
        return sorted(item["name"].rstrip("/").rpartition("/")[2] for item in entries if item["type"] == "directory")

    def exists(self, path: str) -> bool:
        try:
            with _translated_errors(self.url):  # not the filesystem's own exists(): some take an outage for an absence
                self._fs.info(self._at(path))
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        return self._facts(path)[0]

    def change_token(self, path: str) -> str:
        with _translated_errors(self.url):
            return str(self._fs.ukey(self._at(path)))

    def etag(self, path: str) -> str:
        return self._facts(path)[1]

    def facts(self, paths: Sequence[str]) -> dict[str, tuple[int, str]]:
        listed: dict[str, dict[str, Any]] = {}
        if len(paths) >= _MANY:  # one request tells of a thousand
            with _translated_errors(self.url):
                listed = self._fs.find(self._base, detail=True)
        found = {path: listed.get(self._at(path), {}) for path in paths}
        known = {path: (int(one["size"]), _etag(one)) for path, one in found.items() if one.get("size") and _etag(one)}
        lacking = [path for path in paths if path not in known]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            known |= zip(lacking, pool.map(self._facts, lacking), strict=True)
        return {path: known[path] for path in paths}

    def _facts(self, path: str) -> tuple[int, str]:
        with _translated_errors(self.url):
            one = self._fs.info(self._at(path))
        if one.get("size") is None:  # of a web server that does not tell
            with self.open(path) as file:
                return sum(map(len, iter(lambda: file.read(1 << 20), b""))), _etag(one)
        return int(one["size"]), _etag(one)

    def digest(self, path: str) -> str:
        # A copy first: it comes in one piece also from a server without range requests.
        with tempfile.NamedTemporaryFile() as copy, _translated_errors(self.url):
            self._fs.get_file(self._at(path), copy.name)
            return hashlib.file_digest(copy, "sha256").hexdigest()

    def delete(self, path: str) -> None:
        self._ask()
        self._appended.clear()
        if self.exists(path):
            with _translated_errors(self.url):
                self._fs.rm(self._at(path), recursive=True)

    def delete_all(self, paths: Sequence[str]) -> None:
        self._ask()
        try:
            with _translated_errors(self.url):
                self._fs.rm([self._at(path) for path in paths])  # S3: a thousand with one request
        except FileNotFoundError:  # S3 does not mind, others do
            super().delete_all(paths)

    def fetch(self, path: str, to: Path) -> Path:
        with _translated_errors(self.url):
            token = self._fs.ukey(self._at(path))  # so that an object replaced since then is copied again
            target = to / hashlib.sha256(f"{self.url}/{path} {token}".encode()).hexdigest()[:16] / Path(path).name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f"{TEMP_PREFIX}{secrets.token_hex(4)}")
                self._fs.get_file(self._at(path), str(partial))
                sync(partial)  # or after a loss of power the copy may have its name and not its bytes
                partial.replace(target)
        return target


_MANY, _AT_ONCE = 16, 16
_ETAGS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "blob_id")  # S3, web, GCS, Azure, Hugging Face


def _etag(facts: Mapping[str, Any]) -> str:
    """The content hash among what a backend says of a file, "" if there is none."""
    return next((str(facts[name]).strip('"') for name in _ETAGS if facts.get(name)), "")


_BUSY = {errno.EBUSY, errno.EIO, getattr(errno, "EREMOTEIO", errno.EIO)}
_BACKENDS = {"aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "urllib3"}


def unreachable(error: BaseException) -> bool:
    """True if a store did not answer or was too busy. Few of the backends' exceptions are OSErrors."""
    if type(error).__module__.partition(".")[0] in _BACKENDS:  # some of them OSErrors, as aiohttp's of a closed port
        return "Credentials" not in type(error).__name__
    return isinstance(error, OSError) and (isinstance(error, (ConnectionError, TimeoutError)) or error.errno in _BUSY)


def _code(error: BaseException | None) -> str:
    """Return S3's code of an error; "" for any other."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", "")) if error else ""


@contextmanager
def _translated_errors(url: str) -> Iterator[None]:
    """Translate backend exceptions: an outage to TransientError, refused access to CredentialsError, no bucket to
    StorageError."""
    try:
        yield
    except Exception as error:
        if unreachable(error):
            raise TransientError(f"{url} does not answer", found=f"{type(error).__name__}: {error}") from error
        cause = error.__cause__
        if isinstance(error, FileNotFoundError) and type(cause).__module__.startswith("aiohttp"):
            # fsspec reports every failed request to a web server as a missing file; the cause tells them apart.
            status = getattr(cause, "status", None) or 0
            if not 400 <= status < 500 or status in (408, 425, 429):
                raise TransientError(f"{url} does not answer", found=str(cause)) from error
            raise FileNotFoundError(f"{error}: {cause}") from error
        if _code(cause) == "NoSuchBucket":  # else it would look like an empty folder where something is to be found
            bucket = url.partition("://")[2].partition("/")[0]
            fix = "check the name, or make the bucket"
            raise StorageError(f"there is no bucket {bucket!r}", found=f"{url}: {error}", fix=fix) from error
        if isinstance(error, PermissionError):  # without an errno
            fix = "check the credentials, and what they allow: to list, read, put and delete"
            raise CredentialsError(f"{url} refuses access", found=str(error), fix=fix) from error
        if "Credentials" in type(error).__name__:
            raise CredentialsError(
                f"no credentials for {url}",
                found=str(error),
                fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            ) from error
        raise

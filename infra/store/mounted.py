"""Files somebody else owns, shown read-only below ``data/``, as if an artifact had been written there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from infra.errors import StorageError
from infra.store import Store, open_store

__all__ = ["MountedFile", "MountedFolder", "mount"]

_MOUNT = "data"


def mount(location: str, paths: Sequence[str]) -> Store:
    """The store of an adopted artifact with the files ``paths``.

    ``location``: URL of their folder, with a slash at its end, or of the only file, whatever its name is there.
    """
    folder, _, name = location.rpartition("/")
    return MountedFile(open_store(folder or "/"), paths[0], name) if name else MountedFolder(open_store(folder or "/"))


class _Mounted(Store):
    """A view of ``inner`` under other paths; nothing can be written."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.url = inner.url

    @abstractmethod
    def _real(self, path: str) -> str:
        """The path in ``inner``. Raises FileNotFoundError for a path that is not mounted."""

    def locate(self, path: str) -> str:
        return self._inner.locate(self._real(path))

    def local_path(self, path: str) -> Path | None:
        return self._inner.local_path(self._real(path))

    def read(self, path: str) -> bytes:
        return self._inner.read(self._real(path))

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        return self._inner.read_all([self._real(path) for path in paths])

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        return self._inner.read_ranges([(self._real(path), start, end) for path, start, end in ranges])

    def open(self, path: str) -> BinaryIO:
        return self._inner.open(self._real(path))

    def read_appended(self, path: str, start: int = 0) -> tuple[bytes, int]:
        return self._inner.read_appended(self._real(path), start)

    def exists(self, path: str) -> bool:
        try:
            return self._inner.exists(self._real(path))
        except FileNotFoundError:
            return False

    def size(self, path: str) -> int:
        return self._inner.size(self._real(path))

    def change_token(self, path: str) -> str:
        return self._inner.change_token(self._real(path))

    def etag(self, path: str) -> str:
        return self._inner.etag(self._real(path))

    def fetch(self, path: str, to: Path) -> Path:
        return self._inner.fetch(self._real(path), to)

    def publish(self, path: str) -> Any:  # noqa: ANN401 - as Store's
        raise self._read_only()

    def create(self, path: str, data: bytes) -> bool:
        raise self._read_only()

    def append(self, path: str, data: bytes) -> None:
        raise self._read_only()

    def delete(self, path: str) -> None:
        raise self._read_only()

    def _read_only(self) -> StorageError:
        return StorageError(f"{self.url} was adopted where it is: nothing is written there")


class MountedFolder(_Mounted):
    """``data/{path}`` is ``{path}`` of ``inner``."""

    def child(self, path: str) -> Store:
        below = self._real(path)
        return self._inner.child(below) if below else self._inner

    def paths(self, prefix: str = "") -> list[str]:
        if prefix and prefix.split("/")[0] != _MOUNT:
            return []
        return [f"{_MOUNT}/{path}" for path in self._inner.paths(self._real(prefix) if prefix else "")]

    def folders(self, prefix: str = "") -> list[str]:
        if not prefix:
            return [_MOUNT]
        return self._inner.folders(self._real(prefix)) if prefix.split("/")[0] == _MOUNT else []

    def _real(self, path: str) -> str:
        top, _, rest = path.partition("/")
        if top != _MOUNT:
            raise FileNotFoundError(path)
        return rest


class MountedFile(_Mounted):
    """The file ``name`` of ``inner``, shown as ``path``, and nothing else of that folder."""

    def __init__(self, inner: Store, path: str, name: str) -> None:
        super().__init__(inner)
        self._path, self._name = path, name

    def child(self, path: str) -> Store:
        return MountedFile(self._inner, self._path.removeprefix(f"{path}/"), self._name)

    def paths(self, prefix: str = "") -> list[str]:
        return [self._path] if self._path.startswith(f"{prefix.rstrip('/')}/" if prefix else "") else []

    def folders(self, prefix: str = "") -> list[str]:
        return [] if prefix or "/" not in self._path else [self._path.partition("/")[0]]

    def _real(self, path: str) -> str:
        if path != self._path:
            raise FileNotFoundError(path)
        return self._name

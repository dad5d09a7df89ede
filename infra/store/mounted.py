"""A folder somebody else owns, shown read-only below ``data/``, as if an artifact had been written there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from infra.errors import StorageError
from infra.store.base import Store

__all__ = ["MountedStore"]

_MOUNT = "data"


class MountedStore(Store):
    """``data/{path}`` of this store is ``{path}`` of ``inner``; nothing can be written."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.url = inner.url

    def locate(self, path: str) -> str:
        return self._inner.locate(_below(path))

    def child(self, path: str) -> Store:
        below = _below(path)
        return self._inner.child(below) if below else self._inner

    def local_path(self, path: str) -> Path | None:
        return self._inner.local_path(_below(path))

    def read(self, path: str) -> bytes:
        return self._inner.read(_below(path))

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        return self._inner.read_all([_below(path) for path in paths])

    def open(self, path: str) -> BinaryIO:
        return self._inner.open(_below(path))

    def read_appended(self, path: str, start: int = 0) -> tuple[bytes, int]:
        return self._inner.read_appended(_below(path), start)

    def paths(self, prefix: str = "") -> list[str]:
        if prefix and prefix.split("/")[0] != _MOUNT:
            return []
        return [f"{_MOUNT}/{path}" for path in self._inner.paths(_below(prefix) if prefix else "")]

    def folders(self, prefix: str = "") -> list[str]:
        if not prefix:
            return [_MOUNT]
        return self._inner.folders(_below(prefix)) if prefix.split("/")[0] == _MOUNT else []

    def exists(self, path: str) -> bool:
        return path.split("/")[0] == _MOUNT and self._inner.exists(_below(path))

    def size(self, path: str) -> int:
        return self._inner.size(_below(path))

    def change_token(self, path: str) -> str:
        return self._inner.change_token(_below(path))

    def etag(self, path: str) -> str:
        return self._inner.etag(_below(path))

    def fetch(self, path: str, to: Path) -> Path:
        return self._inner.fetch(_below(path), to)

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


def _below(path: str) -> str:
    """``path`` without the leading ``data/``. Raises FileNotFoundError for a path outside it."""
    top, _, rest = path.partition("/")
    if top != _MOUNT:
        raise FileNotFoundError(path)
    return rest

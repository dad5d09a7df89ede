"""A store in a folder of this machine, or of a file system mounted here."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from infra.store.base import TEMP_PREFIX, Publication, Store, clean_path

__all__ = ["LocalStore", "sync"]


class LocalStore(Store):
    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.url = str(self.root)

    def path(self, path: str) -> Path:
        return self.root / clean_path(path)

    def local_path(self, path: str) -> Path | None:
        return self.path(path)

    def child(self, path: str) -> LocalStore:
        below = LocalStore(self.path(path))
        below._fence = self._fence
        return below

    def read(self, path: str) -> bytes:
        return self.path(path).read_bytes()

    def open(self, path: str) -> BinaryIO:
        return self.path(path).open("rb")

    @contextmanager
    def publish(self, path: str) -> Iterator[Publication]:
        target = self.path(path)
        _make_folder(target.parent)
        temp = target.parent / f"{TEMP_PREFIX}{target.name}.{secrets.token_hex(4)}"
        try:
            with temp.open("xb") as sink:
                with Publication(sink) as out:
                    yield out
                sink.flush()
                os.fsync(sink.fileno())
            self._ask()
            temp.replace(target)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        sync(target.parent)  # or the name may be lost although the bytes are safe

    def create(self, path: str, data: bytes) -> bool:
        target = self.path(path)
        _make_folder(target.parent)
        temp = target.parent / f"{TEMP_PREFIX}{target.name}.{secrets.token_hex(4)}"
        try:
            with temp.open("xb") as sink:
                sink.write(data)
                sink.flush()
                os.fsync(sink.fileno())
            self._ask()
            # link() fails if the name exists, so content and name appear in one step.
            os.link(temp, target)
        except FileExistsError:
            return False
        finally:
            temp.unlink(missing_ok=True)
        sync(target.parent)  # or the name may be lost although the bytes are safe
        return True

    def append(self, path: str, data: bytes) -> None:
        self._ask()
        target = self.path(path)
        _make_folder(target.parent)
        new = not target.exists()
        with target.open("ab") as sink:
            sink.write(data)
            sink.flush()
            # Who reads it notes how far; a position beyond the end would hide what is appended after a loss of power.
            os.fsync(sink.fileno())
        if new:
            sync(target.parent)

    def read_appended(self, path: str, start: int = 0) -> tuple[bytes, int]:
        target = self.path(path)
        if not target.exists():
            return b"", start
        with target.open("rb") as source:
            source.seek(start)
            data = source.read()
        whole = data[: data.rfind(b"\n") + 1]  # another thread may be writing a line
        return whole, start + len(whole)

    def paths(self, prefix: str = "") -> list[str]:
        start = len(self.url.rstrip("/")) + 1
        return sorted(
            f"{folder}/{name}"[start:]
            for folder, _, names in os.walk(self.path(prefix))
            for name in names
            if not name.startswith(TEMP_PREFIX)
        )

    def sizes(self, prefix: str = "") -> dict[str, int]:
        start = len(self.url.rstrip("/")) + 1
        found = {}
        for folder, _, names in os.walk(self.path(prefix)):
            for name in names:
                with suppress(FileNotFoundError):  # renamed or removed since it was listed
                    found[f"{folder}/{name}"[start:]] = os.stat(f"{folder}/{name}", follow_symlinks=False).st_size
        return dict(sorted(found.items()))

    def glob(self, pattern: str) -> list[str]:
        found = glob.glob(pattern, root_dir=self.root, recursive=True)
        return sorted(path for path in found if (self.root / path).is_file())

    def folders(self, prefix: str = "") -> list[str]:
        base = self.path(prefix)
        return sorted(item.name for item in base.iterdir() if item.is_dir()) if base.is_dir() else []

    def exists(self, path: str) -> bool:
        return self.path(path).exists()

    def size(self, path: str) -> int:
        return self.path(path).stat().st_size

    def change_token(self, path: str) -> str:
        facts = self.path(path).stat()
        return f"{facts.st_size} {facts.st_mtime_ns}"

    def delete(self, path: str) -> None:
        self._ask()
        target = self.path(path)
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        # A manifest must not be back after a loss of power when the files it names, removed after it, are not.
        if target.parent.is_dir():
            sync(target.parent)

    def delete_all(self, paths: Sequence[str]) -> None:
        self._ask()
        targets = [self.path(path) for path in paths]
        for target in targets:
            target.unlink(missing_ok=True)
        for folder in {target.parent for target in targets}:
            if folder.is_dir():
                sync(folder)

    def sweep(self, prefix: str) -> None:
        self._ask()
        for temp in self.path(prefix).rglob(f"{TEMP_PREFIX}*"):
            temp.unlink(missing_ok=True)

    def fetch(self, path: str, to: Path) -> Path:
        if not self.path(path).exists():
            raise FileNotFoundError(self.path(path))
        return self.path(path)


def sync(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are where a loss of power leaves them."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    """Make the folder and those above it: what is synced in it is lost with the name of any of them."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(parents=True, exist_ok=True)  # some other process may remove them again
        sync(one.parent)

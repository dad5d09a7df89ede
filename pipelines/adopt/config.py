"""Configuration of the adopt stage: where the data is, and what it is."""

from __future__ import annotations

import glob
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from infra.config import Runtime, StageConfig, digest
from infra.errors import ConfigError
from infra.store import open_store
from infra.store.content import Content, contents
from pipelines.adopt.contents import Contents

__all__ = ["Config"]


class Config(StageConfig):
    """``path`` is where the data is today and may change; the identity is the content of the files."""

    code_version: ClassVar[int] = 1

    path: Runtime[str] = Field(description="file, folder or glob, here or at an fsspec URL such as s3://bucket/data")
    contents: Contents = Field(description="what is there: images, pairs, selection, shards, model, testsets, ...")

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        """A run is recorded as meant: from another directory it must find the same files."""
        if not value:
            raise ValueError("a path or URL")
        return value.rstrip("/") if "://" in value else str(Path(value).expanduser().absolute())

    def outputs(self) -> tuple[str, ...]:
        return self.contents.holds

    def location(self) -> str:
        return self._found[0]

    def identity(self) -> dict[str, Any]:
        """The kind of data, and a digest over the name and content of each file."""
        return super().identity() | {"content": self.content_digest}

    @property
    def content_digest(self) -> str:
        facts = {path: [found.bytes, found.sha256 or found.etag] for path, found in self.files.items()}
        return digest(facts)

    @cached_property
    def files(self) -> dict[str, Content]:
        """The files that count, by their path below :meth:`location`. Raises ConfigError if there are none.

        Read once: a worker gets them with the configuration, and need not read all bytes again.
        """
        location, paths = self._found
        return contents(open_store(location), paths)

    @cached_property
    def _found(self) -> tuple[str, list[str]]:
        """The folder, and the paths of the files below it that make up the data."""
        location, paths = _list(self.path)
        picked = self.contents.pick(paths)
        if not picked:
            raise ConfigError(
                f"there is no {self.contents.kind} at {self.path}",
                expected=self.contents.layout,
                found=_some(paths) or "nothing there",
            )
        return location, sorted(picked)


def _list(url: str) -> tuple[str, list[str]]:
    """Folder and relative paths of the files that a path, URL or glob names."""
    if glob.has_magic(url):
        fixed = url[: next(i for i, char in enumerate(url) if char in "*?[")].rpartition("/")[0]
        pattern = url[len(fixed) + 1 :]
        return fixed, [path for path in open_store(fixed).paths() if fnmatchcase(path, pattern)]
    parent, _, name = url.rpartition("/")
    if url.startswith(("http://", "https://")) or ("://" not in url and Path(url).is_file()):
        return parent, [name]
    if paths := open_store(url).paths():
        return url, paths
    return (parent, [name]) if "://" in url and open_store(parent).exists(name) else (url, [])


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(paths[:5]) + more

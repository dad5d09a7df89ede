"""Configuration of the adopt stage: where the data is, and what it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field, field_validator

from infra.config import Runtime, StageConfig, digest
from infra.errors import ConfigError
from infra.store import Store, open_store
from infra.store.content import Content, contents
from infra.store.listing import absolute, listed, within
from pipelines.adopt.contents import Contents
from pipelines.adopt.published import fetched, is_published

__all__ = ["Config"]


class Config(StageConfig):
    """``path`` is where the data is today and may change; the identity is the content of the files.

    The name of a file given by its path is part of that path; only its ending counts.
    """

    code_version: ClassVar[int] = 2

    path: Runtime[str] = Field(
        description="file, folder or glob, here or at an fsspec URL such as s3://bucket/data; or a pattern of several, "
        "{00000..00099}.tar, or several of these with :: between them; or a model's name, models:/name@alias of an "
        "MLflow registry, hf-hub:org/name of a hub"
    )
    contents: Contents = Field(description="what is there: images, pairs, selection, shards, model, testsets, ...")

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        """A run is recorded as meant: from another directory it must find the same files."""
        return value if is_published(value) else absolute(value)

    def outputs(self) -> tuple[str, ...]:
        return self.contents.holds

    def location(self) -> str:
        return self._found.location

    def is_folder(self) -> bool:
        """Return False if the path names one file."""
        return self.location().endswith("/")

    def identity(self) -> dict[str, Any]:
        """The kind of data, and a digest over the name and content of each file."""
        return super().identity() | {"content": self.content_digest}

    @property
    def content_digest(self) -> str:
        return digest({path: [one.bytes, one.sha256 or one.etag] for path, one in self.files.items()})

    @property
    def store(self) -> Store:
        """The store that has the files."""
        return open_store(self._found.folder or "/")

    def real_path(self, path: str) -> str:
        """The path in :attr:`store` of one of the :attr:`files`."""
        return self._found.paths[path]

    @cached_property
    def files(self) -> dict[str, Content]:
        """The files that count, by their path below ``data/``. Raises ConfigError if there are none.

        Read once: a worker gets them with the configuration, and need not read all bytes again.
        """
        try:
            found = contents(self.store, list(self._found.paths.values()))
        except FileNotFoundError as error:
            raise self._nothing(str(error)) from None
        return {path: found[real] for path, real in self._found.paths.items()}

    @cached_property
    def _found(self) -> _Found:
        """Location of the files that make up the data."""
        try:
            named = is_published(self.path)
            folder, found, alone = listed(fetched(self.path, self.contents.pick) if named else self.path)
            if not found:
                raise self._nothing("nothing there")
            if begin := "" if alone else self.contents.beginning(found):
                folder, found = f"{folder}/{begin}", within(found, begin)
            picked = sorted(self.contents.pick(found))
        except FileNotFoundError as error:
            raise self._nothing(str(error)) from None
        if not picked:
            raise self._nothing(_some(found))
        if alone:
            return _Found(folder, {f"{self.contents.kind}{_ending(picked[0])}": picked[0]}, self.path)
        return _Found(folder, {path: path for path in picked}, f"{folder}/")

    def _nothing(self, found: str) -> ConfigError:
        kind = self.contents.kind
        are = "are" if kind.endswith("s") else "is"
        return ConfigError(f"there {are} no {kind} at {self.path}", expected=self.contents.layout, found=found)


@dataclass(frozen=True)
class _Found:
    """``paths``: those in ``folder`` by their paths below ``data/``; ``location``: as :meth:`Config.location`."""

    folder: str
    paths: dict[str, str]
    location: str


def _ending(name: str) -> str:
    """The end of a file's name that tells its format: ``.csv.gz``; of a URL without its query."""
    found = re.search(r"(?:\.\w+)?\.(?:gz|bz2|xz|zst)$|\.\w+$", name.partition("?")[0].lower())
    return found[0] if found else ""


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(paths[:5]) + more

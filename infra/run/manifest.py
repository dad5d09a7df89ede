"""The record of one finished artifact: what it is, what it holds, what became of every row.

``{root}/artifacts/{stage}/{digest}/manifest.json`` present means done. It is a pure function of the stage's identity
and results (no time, host or path enters), so an interrupted and resumed run ends with the same bytes as an
undisturbed one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from infra.config import canonical_json, digest
from infra.errors import DataError
from infra.store import Store, open_store
from infra.store.mounted import mount

__all__ = ["MANIFEST", "Artifact", "File", "Funnel", "Manifest", "ShardRecord"]

MANIFEST = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_bytes(cls, data: bytes, place: str = "") -> Self:
        """Raises DataError, naming ``place``, if ``data`` is not such a record."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise DataError(
                f"{place or 'this'} is not a {cls.__name__.lower()} this version of clipline can read",
                found=f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
                fix="if it was made by another version use that one, else remove it and run again",
            ) from None


class File(_Record):
    """One file of an artifact; ``path`` is relative to the artifact's folder.

    An adopted file on an object store is known by the store's ``etag`` and has no ``sha256``.
    """

    path: str
    bytes: int
    sha256: str = ""
    etag: str = ""
    rows: int | None = None


class Funnel(_Record):
    """Counts of a stage's rows: every row that entered is kept or dropped for a named reason."""

    unit: str
    entered: NonNegativeInt
    kept: NonNegativeInt
    dropped: dict[str, NonNegativeInt] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _nothing_is_lost(self) -> Funnel:
        if self.entered != self.kept + sum(self.dropped.values()):
            raise DataError(
                f"{self.unit} are unaccounted for",
                expected=f"{self.entered} entered = kept + dropped",
                found=f"{self.kept} kept + {sum(self.dropped.values())} dropped {self.dropped}",
            )
        return self

    def __add__(self, other: Funnel) -> Funnel:
        if self.unit != other.unit:
            raise DataError("funnels of different units cannot be added", found=f"{self.unit} and {other.unit}")
        reasons = sorted({*self.dropped, *other.dropped})
        return Funnel(
            unit=self.unit,
            entered=self.entered + other.entered,
            kept=self.kept + other.kept,
            dropped={reason: self.dropped.get(reason, 0) + other.dropped.get(reason, 0) for reason in reasons},
        )


class ShardRecord(_Record):
    """One committed shard: its files, its part of the funnel, and small JSON facts later steps need."""

    shard: str
    files: list[File] = Field(default_factory=list)
    funnel: Funnel | None = None
    facts: dict[str, Any] = Field(default_factory=dict)


class Manifest(_Record):
    """See the module docstring.

    ``identity`` is what the fingerprint was computed from: ``{stage, code_version, config, inputs: {name: digest}}``,
    where ``config`` has only the fields that differ from their defaults; ``config`` beside it has them all.
    ``location``: of files adopted in place, the URL of their folder, with a slash at its end, or of the only file,
    whose name in ``files`` is then another.
    ``provenance`` records what was true but does not decide: digests of the source, package versions, and the content
    digest of each input manifest.
    """

    format: Literal[1] = 1
    stage: str
    digest: str
    identity: dict[str, Any]
    config: dict[str, Any] = Field(default_factory=dict)
    location: str | None = None
    files: list[File] = Field(default_factory=list)
    funnel: Funnel | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    facts: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)

    def to_bytes(self) -> bytes:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"

    @property
    def content_digest(self) -> str:
        """Digest of what the stage produced; equal after a forced re-run that changed nothing."""
        return digest([file.model_dump(exclude_defaults=True) for file in self.files])

    @property
    def name(self) -> str:
        return f"{self.stage}/{self.digest[:12]}"


class Artifact:
    """A finished artifact: its manifest and its folder."""

    def __init__(self, folder: str | Store, manifest: Manifest) -> None:
        if manifest.location is not None:  # adopted: the manifest is ours, the files are where they were
            self.store: Store = mount(manifest.location, [file.path for file in manifest.files])
        else:
            self.store = folder if isinstance(folder, Store) else open_store(folder)
        self.manifest = manifest

    @classmethod
    def load(cls, folder: str | Store) -> Artifact:
        """Open a finished artifact. Raises FileNotFoundError if it has no manifest."""
        store = folder if isinstance(folder, Store) else open_store(folder)
        return cls(store, Manifest.from_bytes(store.read(MANIFEST), f"{store.url}/{MANIFEST}"))

    @classmethod
    def find(cls, folder: str | Store) -> Artifact | None:
        """Open the artifact at ``folder`` if it is finished."""
        try:
            return cls.load(folder)
        except FileNotFoundError:
            return None

    def files(self, prefix: str = "", suffix: str = "") -> list[File]:
        """The files whose path starts and ends so, in manifest order."""
        return [file for file in self.manifest.files if file.path.startswith(prefix) and file.path.endswith(suffix)]

    def read(self, path: str) -> bytes:
        return self.store.read(path)

    def url(self, path: str) -> str:
        return self.store.locate(path)

    def local(self, path: str, to: Path) -> Path:
        """``path`` as a local file; copied under ``to`` if the store is remote."""
        return self.store.fetch(path, to)

    def verify(self) -> Iterator[tuple[File, str]]:
        """Every file that is not as the manifest says, with what is wrong."""
        for file in self.manifest.files:
            if not self.store.exists(file.path):
                yield file, "missing"
            elif self.store.size(file.path) != file.bytes:
                yield file, f"{self.store.size(file.path)} bytes, not {file.bytes}"
            elif file.sha256 and self.store.digest(file.path) != file.sha256:
                yield file, "content differs"
            elif file.etag and self.store.etag(file.path) != file.etag:
                yield file, "content differs, by its ETag"


def fingerprint(
    stage: str, code_version: int, config: dict[str, Any], inputs: dict[str, str]
) -> tuple[str, dict[str, Any]]:
    """The digest that names an artifact, and the identity it was computed from."""
    identity = {"stage": stage, "code_version": code_version, "config": config, "inputs": inputs}
    return digest(json.loads(canonical_json(identity))), identity

"""The record of one finished artifact: what it is, what it holds, what became of every row.

``{root}/artifacts/{stage}/{digest}/manifest.json`` present means done. It is a pure function of the stage's identity
and results (no time, host or path enters), so an interrupted and resumed run ends with the same bytes as an
undisturbed one. It stays small: the files of each thousand shards are in a piece (:mod:`infra.run.pieces`) it names.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import msgspec

from infra.config import canonical_json, digest
from infra.errors import DataError
from infra.run.pieces import Piece, digest_of, files_of
from infra.run.records import File, Funnel, ShardRecord, parse, plain
from infra.store import Store, open_store
from infra.store.listing import absolute, listed, within
from infra.store.mounted import mount

__all__ = ["MANIFEST", "Artifact", "File", "Funnel", "Manifest", "Piece", "ShardRecord", "data_folder", "listed_data"]

MANIFEST = "manifest.json"


def data_folder(paths: Collection[str]) -> str:
    """The folder of the data below the one that holds ``paths``: that of an artifact's own; "": there."""
    return "data" if MANIFEST in paths and any(path.startswith("data/") for path in paths) else ""


def listed_data(place: str) -> tuple[str, list[str], bool]:
    """Folder and relative paths of the files at ``place``, of an artifact those of its data; True if it is one file.

    Raises what :func:`infra.store.listing.listed` raises.
    """
    folder, paths, alone = listed(absolute(place))
    if begin := data_folder(paths):
        folder, paths = f"{folder}/{begin}", within(paths, begin)
    return folder, paths, alone


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See the module docstring.

    ``identity`` is what the fingerprint was computed from: ``{stage, code_version, config, inputs: {name: digest}}``,
    where ``config`` has only the fields that differ from their defaults; ``config`` beside it has them all.
    ``location``: of files adopted in place, the URL of their folder, with a slash at its end, or of the only file,
    whose name in ``files`` is then another.
    ``pieces`` name the files of every full thousand of shards, or adopted files, ``files`` those of the others;
    :meth:`Artifact.files` has all.
    ``provenance`` records what was true but does not decide: digests of the source, package versions, and the content
    digest of each input manifest.
    """

    stage: str
    digest: str
    identity: dict[str, Any]
    format: Literal[1] = 1
    config: dict[str, Any] = {}
    location: str | None = None
    pieces: list[Piece] = []
    files: list[File] = []
    funnel: Funnel | None = None
    metrics: dict[str, float] = {}
    facts: dict[str, Any] = {}
    provenance: dict[str, Any] = {}

    @classmethod
    def from_bytes(cls, data: bytes, place: str = "") -> Manifest:
        """Raises DataError, naming ``place``, if ``data`` is no manifest."""
        return parse(cls, data, place)

    def to_json(self) -> Any:  # noqa: ANN401 - JSON
        return msgspec.to_builtins(self, enc_hook=plain)

    def to_bytes(self) -> bytes:
        return json.dumps(self.to_json(), sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"

    @property
    def content_digest(self) -> str:
        """Digest of what the stage produced; equal after a forced re-run that changed nothing."""
        return digest([*(piece.digest for piece in self.pieces), digest_of(self.files)])

    @property
    def file_count(self) -> int:
        return sum(piece.files for piece in self.pieces) + len(self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(piece.bytes for piece in self.pieces) + sum(file.bytes for file in self.files)

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(piece.rows for piece in self.pieces) + sum(file.rows or 0 for file in self.files)

    @property
    def name(self) -> str:
        return f"{self.stage}/{self.digest[:12]}"


class Artifact:
    """A finished artifact: its manifest and its folder."""

    def __init__(self, folder: str | Store, manifest: Manifest) -> None:
        own = folder if isinstance(folder, Store) else open_store(folder)
        if manifest.location is not None:  # adopted: the manifest is ours, the files are where they were
            self.store: Store = mount(manifest.location, [file.path for file in manifest.files])
        else:
            self.store = own
        self._own = own  # with the pieces
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
        """The files whose path starts and ends so, in the order of the shards. Of a million, use :meth:`each_file`."""
        return list(self.each_file(prefix, suffix))

    def each_file(self, prefix: str = "", suffix: str = "") -> Iterator[File]:
        """:meth:`files`, one after the other: few are in memory at once. Raises DataError for a damaged piece."""
        for file in chain(files_of(self._own, [piece.path for piece in self.manifest.pieces]), self.manifest.files):
            if file.path.startswith(prefix) and file.path.endswith(suffix):
                yield file

    def read(self, path: str) -> bytes:
        return self.store.read(path)

    def url(self, path: str) -> str:
        return self.store.locate(path)

    def local(self, path: str, to: Path) -> Path:
        """``path`` as a local file; copied under ``to`` if the store is remote."""
        return self.store.fetch(path, to)

    def verify(self) -> Iterator[tuple[File, str]]:
        """Every file that is not as the manifest says, with what is wrong; of a damaged piece only that."""
        for piece in self.manifest.pieces:
            try:
                files = list(files_of(self._own, [piece.path]))
            except (FileNotFoundError, DataError) as error:
                yield File(piece.path, 0), "missing" if isinstance(error, FileNotFoundError) else error.found
                continue
            if digest_of(files) != piece.digest:
                yield File(piece.path, 0), "content differs"
            else:
                yield from self._verify(files)
        yield from self._verify(self.manifest.files)

    def _verify(self, files: Iterable[File]) -> Iterator[tuple[File, str]]:
        for file in files:
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

"""Copy finished artifacts between roots: whole, verified, continued where a killed copy was, and nothing overwritten.

The manifest goes last and byte for byte, so the copy is the same artifact: what reads it, plans with it or was made
from it finds it by the same digest. Files adopted in place stay where they are; their manifest names the place.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from infra.errors import DataError
from infra.run.lease import Lease
from infra.run.manifest import MANIFEST, Artifact, Manifest
from infra.run.pieces import digest_of, files_of
from infra.run.records import File
from infra.store import Store

__all__ = ["Shipment", "copy_artifact", "plan_copy"]

_AT_ONCE = 8
_BATCH = 256  # files handed to the threads at once
_MEND = "clipline show --verify names all such files; --force makes the stage again"


@dataclass(frozen=True)
class Shipment:
    """A finished artifact on its way. ``bytes_left``: of ``bytes``, those that are not at the destination yet."""

    folder: str  # relative to both roots
    manifest: Manifest
    bytes: int
    bytes_left: int
    there: bool  # the destination has the whole artifact


def plan_copy(source: Store, target: Store, folder: str) -> Shipment:
    """Look at both sides; nothing is written. Raises DataError if the target has another artifact of that identity."""
    artifact = Artifact.load(source.child(folder))
    files = list(_sizes(source.child(folder), artifact))
    total = sum(size for _, size in files)
    there = _is_there(source.child(folder), target.child(folder))
    if there:
        return Shipment(folder, artifact.manifest, total, 0, True)
    found = target.child(folder).sizes()
    left = sum(size for path, size in files if found.get(path) != size)
    return Shipment(folder, artifact.manifest, total, left, False)


def copy_artifact(source: Store, target: Store, folder: str, copied: Callable[[int], None]) -> None:
    """Copy the artifact in ``folder`` of ``source`` to the same folder of ``target``; ``copied`` gets the bytes.

    Holds the target's lease. Raises DataError for a file that is not as the manifest says, on either side; LeaseHeld if
    a run is making the same artifact there.
    """
    here, there = source.child(folder), target.child(folder)
    if _is_there(here, there):
        return
    artifact = Artifact.load(here)
    lease = Lease.acquire(there)
    try:
        there.sweep("")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            files = _files(here, artifact)
            while batch := list(islice(files, _BATCH)):
                for size in pool.map(lambda file: _copy(here, there, file), batch):
                    copied(size)
        lease.check()
        if not there.create(MANIFEST, here.read(MANIFEST)) and not _is_there(here, there):
            raise _another(there)
    finally:
        lease.release()


def _files(folder: Store, artifact: Artifact) -> Iterator[File]:
    """The pieces and files that lie in the artifact's own folder."""
    for piece in artifact.manifest.pieces:
        if digest_of(files_of(folder, [piece.path])) != piece.digest:
            raise DataError(f"{folder.url}/{piece.path} is not as its manifest says", fix=_MEND)
        yield File(piece.path, folder.size(piece.path), folder.digest(piece.path))
    if artifact.manifest.location is None:
        yield from artifact.each_file()


def _sizes(folder: Store, artifact: Artifact) -> Iterator[tuple[str, int]]:
    for piece in artifact.manifest.pieces:
        yield piece.path, folder.size(piece.path)
    if artifact.manifest.location is None:
        yield from ((file.path, file.bytes) for file in artifact.each_file())


def _copy(source: Store, target: Store, file: File) -> int:
    """Copy one file unless it is there; the bytes that went."""
    if target.exists(file.path):
        if target.size(file.path) != file.bytes or target.digest(file.path) != file.sha256:
            raise DataError(
                f"{target.url}/{file.path} is another file than the manifest names",
                expected=f"{file.bytes} bytes of sha256 {file.sha256[:12]}, or nothing",
                fix="nothing is overwritten: remove it, if nothing needs it, and repeat the command",
            )
        return 0
    with source.open(file.path) as data, target.publish(file.path) as out:
        shutil.copyfileobj(data, out, 1 << 20)
        if (out.size, out.sha256) != (file.bytes, file.sha256):  # raised before it appears
            raise DataError(
                f"{source.url}/{file.path} is not as its manifest says",
                expected=f"{file.bytes} bytes of sha256 {file.sha256[:12]}",
                found=f"{out.size} bytes of sha256 {out.sha256[:12]}",
                fix=_MEND,
            )
    return file.bytes


def _is_there(source: Store, target: Store) -> bool:
    """True if the target has the same manifest. Raises DataError if it has another."""
    if not target.exists(MANIFEST):
        return False
    if target.read(MANIFEST) != source.read(MANIFEST):
        raise _another(target)
    return True


def _another(target: Store) -> DataError:
    return DataError(
        f"{target.url} holds an artifact of the same identity with other results",
        fix="nothing is overwritten: clipline diff compares the two; remove the one you do not want",
    )

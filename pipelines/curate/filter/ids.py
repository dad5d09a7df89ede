"""Long lists of ids, in order in a file of the node that all its workers map into their memory.

So a list takes 16 bytes an id of the node's disk, whatever the number of workers, and of their memory only pages that
the system may drop. A list is known by its content, and is made once; what nobody has used for a day is deleted.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.errors import DataError
from infra.run.manifest import Artifact
from pipelines.curate.balance.entries import read_entries
from pipelines.curate.subset.ids import DTYPE, UID, packed, read_header, read_some

__all__ = ["Ids", "pack_texts"]

Array = NDArray[Any]

_BLOCK = 1 << 20  # ids: 16 MB
_KIND = np.dtype("S16")
_DAY = 86_400  # seconds
_ONCE, _SEVERAL = ".once", ".several"  # endings of files: no id is there several times, or some are


class Ids(NamedTuple):
    """Ids in order, 16 bytes each, the most significant first; ``repeated``: some are there several times."""

    ids: Array
    repeated: bool

    @classmethod
    def of(cls, listed: Iterable[str]) -> Ids:
        """The ids of a short list. Raises DataError for what is no id."""
        ids = np.sort(_checked(listed))
        return cls(ids, _repeats(ids))

    @classmethod
    def of_file(cls, listed: Artifact) -> Ids:
        """The ids of an adopted list, a text file with an id a line or DataComp's ``.npy``. Raises DataError."""
        folder = Path(tempfile.gettempdir(), f"clipline-{os.getuid()}", "ids")
        digest = listed.manifest.content_digest
        with _alone(folder):
            if not (found := _find(folder, digest)):
                _delete_old(folder)
                found = _write(listed, folder, digest)
            os.utime(found)
            ids: Array = np.memmap(found, _KIND, "r") if found.stat().st_size else np.empty(0, _KIND)
        return cls(np.asarray(ids), found.suffix == _SEVERAL)


def pack_texts(uids: Iterable[str]) -> Array:
    """Ids of 32 hex digits as 16 bytes each: (n,) S16."""
    return np.frombuffer(bytes.fromhex("".join(uids)), _KIND)


# --- a file of the node -----------------------------------------------------------------------------------------------


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process of the node at a time in, so that a list is made once."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _find(folder: Path, digest: str) -> Path | None:
    return next((path for end in (_ONCE, _SEVERAL) if (path := folder / f"{digest}{end}").exists()), None)


def _delete_old(folder: Path) -> None:
    """Delete lists of which a day is gone by; a process that has one mapped keeps it, though its name is gone."""
    for path in folder.iterdir():
        if path.name != "lock" and path.stat().st_mtime < time.time() - _DAY:
            path.unlink()


def _write(listed: Artifact, folder: Path, digest: str) -> Path:
    """Write the ids in order. What is sorted are pages of the file: no more of it is in memory than there is room."""
    new = folder / f"{digest}.new"
    with new.open("wb") as out:
        for block in _blocks(listed):
            out.write(block.tobytes())
    repeated = False
    if new.stat().st_size:
        ids = np.memmap(new, _KIND, "r+")
        if any(bool((some[1:] < some[:-1]).any()) for some in _overlapping(ids)):  # DataComp's are in order
            ids.sort()
        repeated = any(map(_repeats, _overlapping(ids)))
        ids.flush()
    return new.replace(folder / f"{digest}{_SEVERAL if repeated else _ONCE}")


def _overlapping(ids: Array) -> Iterator[Array]:
    """Blocks of ``ids``, each with the first id of the next one."""
    return (ids[start : start + _BLOCK + 1] for start in range(0, len(ids), _BLOCK))


def _repeats(ids: Array) -> bool:
    return bool((ids[1:] == ids[:-1]).any())


# --- reading ----------------------------------------------------------------------------------------------------------


def _blocks(listed: Artifact) -> Iterator[Array]:
    """The ids of a list as it has them, some at a time: (n,) S16."""
    subsets = [file.path for file in listed.files("data/", ".npy")]
    if len(subsets) != 1:
        lines = read_entries(listed)
        yield from (_checked(lines[start : start + _BLOCK]) for start in range(0, len(lines), _BLOCK))
        return
    begin, count = read_header(listed.store, subsets[0])
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        places = (begin + place * DTYPE.itemsize for place in (start, stop))
        yield packed(read_some(listed.store, subsets[0], *places))


def _checked(listed: Iterable[str]) -> Array:
    """The ids of some lines; empty ones do not count. Raises DataError for what is no id."""
    lines = [text for line in listed if (text := line.strip().lower())]
    if wrong := [line for line in lines if not re.fullmatch(UID, line)]:
        raise DataError("a list of ids holds something else", expected="32 hex digits a line", found=repr(wrong[0]))
    return pack_texts(lines)

"""The code that a submitted run works with: one zip of the packages' files, as they are on this machine now.

Of a git checkout these are the tracked files, with their uncommitted changes. So neither data nor what lies around goes
along, and nobody has to install clipline on the cluster anew for each change.
"""

from __future__ import annotations

import io
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from infra.errors import UsageError

__all__ = ["LIMIT", "Snapshot", "snapshot"]

LIMIT = 32_000_000
"""Bytes of a snapshot. Ray keeps it in the memory of the head, and sends it to every node."""

_PRIVATE = (".env*", ".netrc", "*.pem", "*.key", "*.p12", "id_rsa*", "id_ed25519*", "*credentials*", "*secret*.*")
"""Names of files that hold secrets, and are left out even where git knows them."""


@dataclass(frozen=True)
class Snapshot:
    """``data``: the zip, whose bytes depend only on names and contents.

    ``left``: files that do not go along, new ones that git does not know and those named as secrets are.
    """

    data: bytes
    files: int
    left: tuple[str, ...]


def snapshot(packages: Sequence[Path], extra: Mapping[str, bytes], limit: int = LIMIT) -> Snapshot:
    """Pack the folders ``packages`` and the files of ``extra``. Raises UsageError if they exceed ``limit`` bytes."""
    files, left = dict(extra), []
    for package in packages:
        tracked = _git(package, "ls-files", "-z")
        for path in tracked or sorted(path.relative_to(package) for path in package.rglob("*")):
            whole = package / path
            if not whole.is_file() or whole.is_symlink() or "__pycache__" in path.parts:
                continue
            if any(fnmatch(path.name.lower(), private) for private in _PRIVATE):
                left.append(f"{package.name}/{path.as_posix()}")
            else:
                files[f"{package.name}/{path.as_posix()}"] = whole.read_bytes()
        if tracked:
            left += [f"{package.name}/{path}" for path in _git(package, "ls-files", "-z", "-o", "--exclude-standard")]
    if (size := sum(map(len, files.values()))) > limit:
        largest = sorted(files, key=lambda path: -len(files[path]))[:3]
        raise UsageError(
            f"the code to send has {size / 1e6:,.1f} MB",
            expected=f"at most {limit / 1e6:,.1f} MB: data belongs below the root or into a bucket",
            found=", ".join(f"{path} {len(files[path]) / 1e6:,.1f} MB" for path in largest),
        )
    return Snapshot(_zip(files), len(files), tuple(left))


def _git(folder: Path, *words: str) -> list[Path]:
    """The paths that git prints; none if ``folder`` is not of a checkout."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []
    return [Path(name) for name in done.stdout.decode().split("\0") if name]


def _zip(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            archive.writestr(zipfile.ZipInfo(path), files[path], zipfile.ZIP_DEFLATED)
    return packed.getvalue()

"""A disk that loses power: names and bytes that were not synced are gone."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Folder:
    """Names in a folder, of folders or of files by inode: as its processes see them, and as they are on the disk."""

    seen: dict[str, Folder | int] = field(default_factory=dict)
    safe: dict[str, Folder | int] = field(default_factory=dict)


class Disk:
    """What the steps of ``passed.jsonl`` leave of ``root``. ``kept``: the folder with a link to each file, by inode."""

    def __init__(self, root: Path, kept: Path) -> None:
        self._root, self._kept, self._top, self._synced = root, kept, Folder(), {}

    def replay(self, lines: Iterable[dict[str, Any]]) -> None:
        for line in lines:
            if "done" in line:
                verb, *paths = line["done"]
                self._do(verb, [Path(path).relative_to(self._root) for path in paths], line["inode"], line["size"])

    def _do(self, verb: str, paths: list[Path], inode: int, size: int) -> None:
        above, name = self._folder(paths[-1].parent), paths[-1].name  # of the root itself: the root, and no name
        match verb:
            case "mkdir":
                above.seen[name] = Folder()
            case "unlink" | "remove" | "rmdir":
                above.seen.pop(name, None)
            case "link":
                above.seen[name] = inode
            case "replace" | "rename":
                self._folder(paths[0].parent).seen.pop(paths[0].name, None)
                above.seen[name] = inode
            case "fsync":
                folder = self._top if not name else above.seen.get(name)
                if isinstance(folder, Folder):
                    folder.safe = dict(folder.seen)
                else:
                    above.seen[name] = inode
                    self._synced[inode] = size

    def _folder(self, path: Path) -> Folder:
        folder: Any = self._top
        for part in path.parts:
            folder = folder.seen[part]
        return folder

    def lose_power(self, to: Path, names: random.Random | None = None) -> None:
        """Write what is left to ``to``: of the names only those synced, or also all others of the folders drawn."""
        self._write(self._top, to, names)

    def _write(self, folder: Folder, to: Path, names: random.Random | None) -> None:
        to.mkdir()
        left = folder.seen if names and names.random() < 0.5 else folder.safe
        for name, what in left.items():
            if isinstance(what, Folder):
                self._write(what, to / name, names)
            else:
                (to / name).write_bytes((self._kept / str(what)).read_bytes()[: self._synced.get(what, 0)])

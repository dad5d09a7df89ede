"""Resolve places of data as people write them: a file, a folder, a glob, or a pattern of webdataset's.

``/data/{00000..00099}.tar`` and ``s3://bucket/{cc3m,cc12m}/{000..331}.tar`` name many files, ``a::b`` what several such
places name together, as in ``--train-data`` of open_clip.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from braceexpand import braceexpand

from infra.errors import ConfigError
from infra.store import open_store

__all__ = ["absolute", "listed", "within"]


def absolute(place: str) -> str:
    """``place`` as it is meant from here, wherever the process will be. Raises ValueError if it is empty."""
    return "::".join(map(_absolute, place.split("::")))


def _absolute(place: str) -> str:
    if not place:
        raise ValueError("a path or URL")
    place = place.removeprefix("file://")
    return place.rstrip("/") if "://" in place else str(Path(place).expanduser().absolute())


def listed(place: str) -> tuple[str, list[str], bool]:
    """Folder and relative paths of the files that ``place``, made :func:`absolute`, names; True if it is one file.

    Raises ConfigError, naming what a pattern names that is not there, or that it names twice.
    """
    if "://" not in place and Path(place).exists():  # also with a "{" in its name
        return _one(place)
    places = _expanded(place)
    if len(places) == 1:
        return _one(places[0])
    found = [(each, *_one(each)) for each in places]
    if missing := [each for each, _, paths, _ in found if not paths or not _there(each, paths)]:
        raise ConfigError(
            f"{len(missing)} of the {len(places)} places that {place} names do not exist",
            found=", ".join(missing[:5]) + (", ..." if len(missing) > 5 else ""),
        )
    urls = [f"{folder}/{path}" for _, folder, paths, _ in found for path in paths]
    if twice := [url for url, count in Counter(urls).items() if count > 1]:
        raise ConfigError(
            f"{place} names files twice", expected="each once", found=", ".join(twice[:5]),
            fix="give what is to be seen more often as an input of its own, and its weight in data.weights",
        )  # fmt: skip
    folder = os.path.commonpath([url.rpartition("/")[0] for url in _plain(urls)])
    folder = folder.replace(":/", "://", 1) if "://" in urls[0] else folder
    return folder, [url[len(folder) + 1 :] for url in urls], False


def within(paths: Iterable[str], folder: str) -> list[str]:
    """Those of the ``paths`` that are in ``folder``, relative to it."""
    return [path.removeprefix(f"{folder}/") for path in paths if path.startswith(f"{folder}/")]


def _expanded(place: str) -> list[str]:
    places = []
    for part in place.split("::"):
        if "{" not in part or part.startswith(("http://", "https://")):
            places.append(part)
            continue
        try:
            places += braceexpand(part)
        except ValueError:  # unbalanced
            raise ConfigError(f"{part} is no pattern", expected="a } for each {, as in {00000..00099}.tar") from None
    return places


def _plain(urls: list[str]) -> list[str]:
    schemes = {url.partition("://")[0] for url in urls if "://" in url}
    if len(schemes) > 1 or (schemes and not all("://" in url for url in urls)):
        raise ConfigError(
            "a pattern cannot name several stores", found=", ".join(sorted(schemes)), fix="give each as an input"
        )
    return [url.replace("://", ":/", 1) for url in urls]


def _there(place: str, paths: list[str]) -> bool:
    """True if the one file that is named exists, or a folder was listed."""
    folder, _, name = place.rpartition("/")
    return paths != [name] or open_store(folder or "/").exists(name)


def _one(url: str) -> tuple[str, list[str], bool]:
    """The same of one path, URL or glob."""
    parent, _, name = url.rpartition("/")
    web = url.startswith(("http://", "https://"))
    there = "://" not in url and Path(url).exists()  # also with a "[" in its name
    if not there and ("*" in url if web else glob.has_magic(url)):
        fixed = url[: next(i for i, char in enumerate(url) if char in ("*" if web else "*?["))].rpartition("/")[0]
        return fixed, open_store(fixed or "/").glob(url[len(fixed) + 1 :]), False
    if web or ("://" not in url and Path(url).is_file()):
        return parent, [name], True
    if paths := open_store(url).paths():
        return url, paths, False
    return (parent, [name], True) if "://" in url and open_store(parent).exists(name) else (url, [], False)

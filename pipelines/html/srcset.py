"""The ``srcset`` attribute: URLs of one image with their widths or densities (HTML Standard, 4.8.4.2.2)."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Offer", "parse_srcset"]


class Offer(NamedTuple):
    """A URL as written, its width in pixels or 0, and its pixel density."""

    url: str
    width: float
    density: float


_URL = re.compile(r"[ \t\n\f\r,]*([^ \t\n\f\r]+)")
_DESCRIPTORS = re.compile(r"(?:[^,(]|\([^)]*\)?)*+")
_DESCRIPTOR = re.compile(
    r"(?P<w>[0-9]{1,9})w|(?P<h>[0-9]{1,9})h|(?P<x>(?:[0-9]+|[0-9]*\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?|-0)x"
)
_SPACE = re.compile(r"[ \t\n\f\r]+")


def parse_srcset(value: str) -> list[Offer]:
    """Return the valid entries of a ``srcset``; browsers ignore the others, too.

    An entry is not valid if its URL has spaces, as in "my fox.jpg 300w": what follows "my" is no descriptor.
    """
    offers: list[Offer] = []
    position = 0
    while match := _URL.match(value, position):
        url, descriptors = match[1], ""
        position = match.end()
        if url.endswith(","):
            url = url.rstrip(",")
        elif found := _DESCRIPTORS.match(value, position):
            descriptors, position = found[0], found.end() + 1
        size = _size(descriptors)
        if url and size is not None:
            offers.append(Offer(url, *size))
    return offers


def _size(descriptors: str) -> tuple[float, float] | None:
    """Return width or 0, and density; None if a browser would not accept these descriptors."""
    given: dict[str, float] = {}
    for part in filter(None, _SPACE.split(descriptors)):
        found = _DESCRIPTOR.fullmatch(part)
        kind = found.lastgroup if found else None
        if found is None or kind is None or kind in given:
            return None
        given[kind] = float(found[kind])
    if "x" in given and len(given) > 1:
        return None
    if given.get("w") == 0 or given.get("h") == 0 or ("h" in given and "w" not in given):
        return None
    return given.get("w", 0.0), given.get("x", 1.0)

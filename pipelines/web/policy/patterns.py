"""Path patterns of robots.txt (RFC 9309, 2.2.3), which TDMRep, RSL, ai.txt and Content-Usage share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar
from urllib.parse import quote

__all__ = ["longest_matches", "matches", "path_of"]

T = TypeVar("T")
_AS_WRITTEN = "".join(map(chr, range(33, 127)))  # a canonical URL percent-encodes the rest


def path_of(url: str) -> str:
    """Return path and query of a canonical URL."""
    return url[url.index("/", url.index("://") + 3) :]


def matches(path: str, pattern: str) -> bool:
    """Return True if a pattern matches: a prefix, ``*`` for anything, ``$`` for the end. Linear time."""
    first, *parts = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    if pattern.endswith("$"):
        if not parts:
            return path == first
        last = parts.pop()
        if not path.endswith(last) or len(path) < len(first) + len(last):
            return False
        path = path[: len(path) - len(last)]
    position = len(first)
    for part in parts:
        position = path.find(part, position)
        if position < 0:
            return False
        position += len(part)
    return True


def longest_matches(path: str, rules: Iterable[tuple[str, T]]) -> list[T]:
    """Return the values of the longest patterns that match ``path``: several if they are equally long."""
    longest = -1
    found: list[T] = []
    for pattern, value in rules:
        encoded = pattern if pattern.isascii() else quote(pattern, safe=_AS_WRITTEN)
        if len(encoded) >= longest and matches(path, encoded):
            if len(encoded) > longest:
                longest, found = len(encoded), []
            found.append(value)
    return found

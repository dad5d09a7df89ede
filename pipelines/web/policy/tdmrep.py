"""Text and data mining reservations in ``/.well-known/tdmrep.json`` (W3C TDMRep, report of May 2024).

A list of ``{"location": pattern, "tdm-reservation": 0 | 1, "tdm-policy": URL}``; the first pattern that matches the
path decides. Malformed rules are ignored, as the report specifies.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

__all__ = ["PATH", "Reservations"]

PATH = "/.well-known/tdmrep.json"
_MAX_RULES = 1000


@dataclass(frozen=True)
class Reservations:
    """Reservations of one origin. ``rules``: (pattern, reserved) in the order of the file."""

    rules: tuple[tuple[str, bool], ...] = ()
    size: int = 200

    @classmethod
    def parse(cls, status: int, body: bytes) -> Self:
        if not 200 <= status < 300:
            return cls()
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            return cls()
        rules = [
            (rule["location"], str(rule.get("tdm-reservation")) == "1")
            for rule in (found if isinstance(found, list) else [])
            if isinstance(rule, dict)
            and isinstance(rule.get("location"), str)
            and str(rule.get("tdm-reservation")) in ("0", "1")
        ]
        return cls(tuple(rules[:_MAX_RULES]), size=200 + len(body))

    def is_reserved(self, url: str) -> bool:
        """Return True if the path of a canonical URL is reserved."""
        path = url[url.index("/", url.index("://") + 3) :]
        return next((reserved for pattern, reserved in self.rules if _matches(path, pattern)), False)


def _matches(path: str, pattern: str) -> bool:
    """Match a robots.txt pattern: a prefix, ``*`` for anything, ``$`` for the end. Linear time."""
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

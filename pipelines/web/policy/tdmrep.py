"""``/.well-known/tdmrep.json``: where a site reserves text and data mining (W3C TDMRep, report of May 2024).

A list of ``{"location": pattern, "tdm-reservation": 0 | 1, "tdm-policy": URL}``; the first pattern that matches the
path decides. What is malformed says nothing, as the report has it.
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
    """``rules``: (pattern, reserved) in the order of the file."""

    rules: tuple[tuple[str, bool], ...] = ()
    size: int = 200

    @classmethod
    def read(cls, status: int, body: bytes) -> Self:
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

    def reserved(self, url: str) -> bool:
        """Whether the path of a canonical URL is reserved."""
        path = url[url.index("/", url.index("://") + 3) :]
        return next((reserved for pattern, reserved in self.rules if _matches(path, pattern)), False)


def _matches(path: str, pattern: str) -> bool:
    """Patterns are robots.txt's: a prefix, ``*`` for anything, ``$`` for the end. In time linear in both."""
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

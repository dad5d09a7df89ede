"""Text and data mining reservations in ``/.well-known/tdmrep.json`` (W3C TDMRep, report of May 2024).

A list of ``{"location": pattern, "tdm-reservation": 0 | 1, "tdm-policy": URL}``; the first pattern that matches the
path decides. Malformed rules are ignored, as the report specifies.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

from pipelines.web.policy.patterns import matches, path_of

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

    def refusal(self, url: str) -> str:
        """Return the words by which a canonical URL is reserved; empty if it is not."""
        path = path_of(url)
        reserved = next((reserved for pattern, reserved in self.rules if matches(path, pattern)), False)
        return "tdm-reservation: 1" if reserved else ""

"""Two more files in which sites withhold content from AI, each a request of its own per origin, so read if asked for.

``/ai.txt`` (Spawning) has the form of robots.txt, with patterns of file names: ``Disallow: *.jpg``. ``/trust.txt``
(JournalList) has lines ``name=value``, among them ``datatrainingallowed=no``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from pipelines.web.policy.opt_outs import quoted
from pipelines.web.policy.patterns import longest_matches, path_of
from pipelines.web.policy.robots import addressed, scoped_lines

__all__ = ["AiTxt", "TrustTxt"]

_MAX_RULES = 1000
_TRAINING = re.compile(rb"^[ \t]*datatrainingallowed[ \t]*=[ \t]*(no|false|0)\b", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class AiTxt:
    """Rules for all, for us and for AI crawlers. ``rules``: (pattern, the line if it disallows, or an empty text)."""

    rules: tuple[tuple[str, str], ...] = ()
    size: int = 200

    @classmethod
    def parse(cls, status: int, body: bytes, agent: str = "clipline") -> Self:
        if not 200 <= status < 300 or body.lstrip()[:1] == b"<":  # an error page
            return cls()
        lines = scoped_lines(body.decode("utf-8-sig", "replace").splitlines(), "allow|disallow")
        rules = [
            (value, quoted(name, value) if name.lower() == "disallow" else "")
            for _, name, value in addressed(lines, agent)[:_MAX_RULES]
        ]
        return cls(tuple(rules), size=200 + 2 * len(body))

    def refusal(self, url: str) -> str:
        """Return the line that withholds a canonical URL: of the longest patterns any that disallows; else empty."""
        return next(filter(None, longest_matches(path_of(url), self.rules)), "")


@dataclass(frozen=True)
class TrustTxt:
    """A parsed trust.txt. ``line``: the line that forbids training, empty if none does."""

    line: str = ""
    size: int = 200

    @classmethod
    def parse(cls, status: int, body: bytes) -> Self:
        found = _TRAINING.search(body) if 200 <= status < 300 else None
        return cls(found[0].decode("ascii").strip() if found else "")

    def refusal(self, url: str) -> str:
        """Return the line that withholds all of the origin, whatever ``url``; empty if none does."""
        return self.line

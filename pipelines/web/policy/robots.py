"""robots.txt (RFC 9309): what a file says, what a missing one means, and how far a hostile one can go.

Protego does the parsing. It keeps a set of rules per user agent, so a file of 150 kB that names five thousand of them
takes it minutes; here every agent that is not us, not an AI crawler and not everybody is made the same nobody first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.schema import Drop
from pipelines.web.policy.opt_outs import AI_AGENTS

if TYPE_CHECKING:
    from protego import Protego

__all__ = ["Rules", "sitemaps"]

_AGENT = re.compile(r"\s*user[- ]?agent\s*[:\s]\s*(\*|[\w.-]*)", re.IGNORECASE)
_SITEMAP = re.compile(r"\s*site-?maps?\s*:\s*(\S+)", re.IGNORECASE)
_MOST_WILDCARDS = 100_000  # times agents asked for: about 10 ms of matching for each address


@dataclass(frozen=True)
class Rules:
    """One origin's robots.txt. ``agents``: the AI crawlers it names, in lower case."""

    parsed: Protego | None  # None: there are no rules
    agents: tuple[str, ...] = ()
    crawl_delay: float = 0.0  # seconds between requests that the site asks for; 0 if it does not
    unreachable: str = ""  # why nothing may be fetched: the status the server gave instead of rules
    size: int = 200  # bytes it was parsed from, and a little for itself

    @classmethod
    def read(cls, status: int, body: bytes, agent: str = "clipline") -> Rules:
        """What the answer says to ``agent``, to AI crawlers and to everybody.

        RFC 9309, 2.3.1: 4xx means no rules, 5xx means stay away. 429 is a server in trouble, so it counts as 5xx.
        """
        if status >= 500 or status == 429:
            return cls(None, unreachable=str(status))
        if not 200 <= status < 300:
            return cls(None)
        from protego import Protego

        asked = {agent.lower(), *AI_AGENTS}
        named: set[str] = set()
        lines = body.decode("utf-8-sig", "replace").splitlines()
        for number, line in enumerate(lines):
            if found := _AGENT.match(line):
                name = found[1].lower()
                if name in asked:
                    named.add(name)
                lines[number] = f"User-agent: {name if name in asked or name == '*' else '-'}"
        if body.count(b"*") * (1 + len(named)) > _MOST_WILDCARDS:
            return cls(None, unreachable="too complex")
        agents = tuple(sorted(named & AI_AGENTS - {agent.lower()}))
        parsed = Protego.parse("\n".join(lines))
        return cls(parsed, agents, max(0.0, float(parsed.crawl_delay(agent) or 0)), size=200 + len(body))

    def refusal(self, url: str, agent: str, *, as_ai: bool) -> tuple[Drop, str] | None:
        """Why ``agent`` may not fetch ``url``; with ``as_ai`` also what is told to AI crawlers by name counts."""
        if self.unreachable:
            return Drop.ROBOTS, f"robots.txt: {self.unreachable}"
        if self.parsed is None:
            return None
        if not self.parsed.can_fetch(url, agent):
            return Drop.ROBOTS, "robots.txt"
        if as_ai:
            for name in self.agents:
                if not self.parsed.can_fetch(url, name):
                    return Drop.OPT_OUT, f"robots.txt: {name}"
        return None


def sitemaps(body: bytes) -> list[str]:
    """The addresses of the sitemaps that a robots.txt names, as written."""
    lines = body.decode("utf-8-sig", "replace").splitlines()
    return [found[1] for line in lines if (found := _SITEMAP.match(line))]

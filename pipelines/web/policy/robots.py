"""robots.txt rules (RFC 9309), with bounds on the time a hostile file can cost.

Protego does the parsing. It keeps a set of rules per user agent, so a file of 150 kB that names five thousand of them
takes it minutes; hence all agents other than ours, AI crawlers and ``*`` are replaced by one placeholder first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from protego import Protego

from infra.schema import Drop
from pipelines.web.policy.opt_outs import AI_AGENTS

__all__ = ["RobotsRules", "sitemaps"]

_AGENT = re.compile(r"\s*user[- ]?agent\s*[:\s]\s*(\*|[\w.-]*)", re.IGNORECASE)
_SITEMAP = re.compile(r"\s*site-?maps?\s*:\s*(\S+)", re.IGNORECASE)
_MAX_WILDCARDS = 100_000  # wildcards x agents: about 10 ms of matching per URL


@dataclass(frozen=True)
class RobotsRules:
    """Rules of one origin. ``agents``: the AI crawlers that robots.txt names, in lower case."""

    parsed: Protego | None  # None: there are no rules
    agents: tuple[str, ...] = ()
    crawl_delay: float = 0.0  # seconds between requests; 0 if not given
    unreachable: str = ""  # why nothing may be fetched: the status the server returned instead of rules
    size: int = 200  # bytes it was parsed from, and some overhead

    @classmethod
    def parse(cls, status: int, body: bytes, agent: str = "clipline") -> RobotsRules:
        """Parse the rules for ``agent``, for AI crawlers and for ``*``.

        RFC 9309, 2.3.1: 4xx means no rules, 5xx forbids everything. 429 means overload, so it counts as 5xx.
        """
        if status >= 500 or status == 429:
            return cls(None, unreachable=str(status))
        if not 200 <= status < 300:
            return cls(None)
        asked = {agent.lower(), *AI_AGENTS}
        named: set[str] = set()
        lines = body.decode("utf-8-sig", "replace").splitlines()
        for number, line in enumerate(lines):
            if found := _AGENT.match(line):
                name = found[1].lower()
                if name in asked:
                    named.add(name)
                lines[number] = f"User-agent: {name if name in asked or name == '*' else '-'}"
        if body.count(b"*") * (1 + len(named)) > _MAX_WILDCARDS:
            return cls(None, unreachable="too complex")
        agents = tuple(sorted(named & AI_AGENTS - {agent.lower()}))
        parsed = Protego.parse("\n".join(lines))
        return cls(parsed, agents, max(0.0, float(parsed.crawl_delay(agent) or 0)), size=200 + len(body))

    def refusal(self, url: str, agent: str, *, as_ai: bool) -> tuple[Drop, str] | None:
        """Return why ``agent`` may not fetch ``url``, or None. ``as_ai``: apply the rules for AI crawlers, too."""
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
    """Return the sitemap URLs that a robots.txt names, as written."""
    lines = body.decode("utf-8-sig", "replace").splitlines()
    return [found[1] for line in lines if (found := _SITEMAP.match(line))]

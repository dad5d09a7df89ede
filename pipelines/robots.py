"""robots.txt: one answer per origin, asked for once, with RFC 9309's rules for what a missing answer means."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.schema import Drop
from pipelines.optout import AI_AGENTS

if TYPE_CHECKING:
    from protego import Protego

    from pipelines.hosts import Answer

__all__ = ["Robots", "Rules"]

_MAX_PARSED = 8 << 20  # bytes of robots.txt held parsed; that takes several times their size

_USER_AGENT = re.compile(rb"^\s*user-agent\s*:\s*([^\s#]+)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Rules:
    """One origin's robots.txt. ``agents``: the AI crawlers it names, in lower case."""

    parsed: Protego | None  # None: there are no rules
    agents: tuple[str, ...] = ()
    unreachable: str = ""  # why nothing may be fetched: the status the server gave instead of rules
    size: int = 200  # bytes it was parsed from, and a little for itself

    @classmethod
    def read(cls, status: int, body: bytes) -> Rules:
        """RFC 9309, 2.3.1: 4xx means no rules, 5xx means stay away. 429 is a server in trouble, so it counts as 5xx."""
        if status >= 500 or status == 429:
            return cls(None, unreachable=str(status))
        if not 200 <= status < 300:
            return cls(None)
        from protego import Protego

        named = {name.decode("latin-1").lower() for name in _USER_AGENT.findall(body)}
        return cls(
            Protego.parse(body.decode("utf-8", "replace")), tuple(sorted(named & AI_AGENTS)), size=200 + len(body)
        )

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

    def crawl_delay(self, agent: str) -> float:
        """Seconds between requests that the site asks for; 0 if it does not."""
        if self.parsed is None:
            return 0.0
        delay = self.parsed.crawl_delay(agent)
        return max(0.0, float(delay)) if delay is not None else 0.0


class Robots:
    """The rules of each origin, parsed once. ``load(url)`` gives a robots.txt, or what keeps it away."""

    def __init__(self, load: Callable[[str], Awaitable[Answer]]) -> None:
        self._load = load
        self._rules: dict[str, Rules] = {}  # oldest first
        self._bytes = 0

    async def rules(self, origin: str) -> Rules:
        """The rules of ``scheme://host[:port]``. Raises FetchError if there is no telling."""
        from pipelines.fetch import FetchError

        if known := self._rules.get(origin):
            return known
        answer = await self._load(f"{origin}/robots.txt")
        if answer.reason:
            raise FetchError(Drop(answer.reason), answer.detail)
        if known := self._rules.get(origin):
            return known  # somebody else was waiting, too
        rules = self._rules[origin] = Rules.read(answer.status, answer.body)
        self._bytes += rules.size
        while self._bytes > _MAX_PARSED:
            self._bytes -= self._rules.pop(next(iter(self._rules))).size
        return rules

"""robots.txt: one answer per origin, asked for once, with RFC 9309's rules for what a missing answer means."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.schema import Drop
from pipelines.optout import AI_AGENTS

if TYPE_CHECKING:
    from protego import Protego

__all__ = ["MAX_BYTES", "Robots", "Rules"]

MAX_BYTES = 500 * 1024  # what RFC 9309 asks a crawler to read at least; we parse no more

_USER_AGENT = re.compile(rb"^\s*user-agent\s*:\s*([^\s#]+)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Rules:
    """One origin's robots.txt. ``agents``: the AI crawlers it names, in lower case."""

    parsed: Protego | None  # None: there are no rules
    agents: tuple[str, ...] = ()
    unreachable: str = ""  # why nothing may be fetched: the status the server gave instead of rules

    @classmethod
    def read(cls, status: int, body: bytes) -> Rules:
        """RFC 9309, 2.3.1: 4xx means no rules, 5xx means stay away. 429 is a server in trouble, so it counts as 5xx."""
        if status >= 500 or status == 429:
            return cls(None, unreachable=str(status))
        if not 200 <= status < 300:
            return cls(None)
        from protego import Protego

        named = {name.decode("latin-1").lower() for name in _USER_AGENT.findall(body)}
        return cls(Protego.parse(body.decode("utf-8", "replace")), tuple(sorted(named & AI_AGENTS)))

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
    """The rules of each origin. ``load(url)`` gives a robots.txt's status and body, or raises what keeps it away."""

    def __init__(self, load: Callable[[str], Awaitable[tuple[int, bytes]]]) -> None:
        self._load = load
        self._rules: dict[str, asyncio.Task[Rules]] = {}

    async def rules(self, origin: str) -> Rules:
        """The rules of ``scheme://host[:port]``. Raises what ``load`` raised, to everyone who asks."""
        task = self._rules.get(origin)
        if task is None:
            task = self._rules[origin] = asyncio.create_task(self._read(origin))
        # Shielded: who waits may give up, the answer is for all.
        return await asyncio.shield(task)

    async def _read(self, origin: str) -> Rules:
        return Rules.read(*await self._load(f"{origin}/robots.txt"))

    async def close(self) -> None:
        tasks = list(self._rules.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

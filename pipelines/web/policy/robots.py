"""robots.txt rules (RFC 9309), with bounds on the time a hostile file can cost.

Protego does the parsing. It keeps a set of rules per user agent, so a file of 150 kB that names five thousand of them
takes it minutes; hence all agents other than ours, AI crawlers and ``*`` are replaced by one placeholder first.

Lines that Protego does not know say how content may be used: ``Content-Signal`` (contentsignals.org), ``Content-Usage``
(draft-ietf-aipref-attach) and RSL's ``License``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from protego import Protego

from pipelines.web.policy.agents import AI_AGENTS
from pipelines.web.policy.opt_outs import joined, quoted
from pipelines.web.policy.patterns import longest_matches, path_of
from pipelines.web.policy.usage import split_path, withholds_training

__all__ = ["RobotsRules", "Scoped", "addressed", "scoped_lines", "sitemaps"]

_AGENT = re.compile(r"\s*user[- ]?agent\s*[:\s]\s*(\*|[\w.-]*)", re.IGNORECASE)
_SITEMAP = re.compile(r"\s*site-?maps?\s*:\s*(\S+)", re.IGNORECASE)
_USAGE = r"content-signal|content-usage|license"
_MAX_WILDCARDS = 100_000  # wildcards x agents: about 10 ms of matching per URL
_MAX_USAGE = 1000  # lines about usage that are read

Scoped = tuple[frozenset[str], str, str]
"""A line: the agents it is addressed to, in lower case; its name as written; its value."""


@dataclass(frozen=True)
class RobotsRules:
    """Rules of one origin. ``agents``: the AI crawlers that robots.txt names, as written.

    ``usage``: groups of lines about the use of content, each a list of (path pattern, (words, withheld)).
    ``licenses``: addresses of RSL licences, as written.
    """

    parsed: Protego | None  # None: there are no rules
    agents: tuple[str, ...] = ()
    crawl_delay: float = 0.0  # seconds between requests; 0 if not given
    unreachable: str = ""  # why nothing may be fetched: the status the server returned instead of rules
    usage: tuple[tuple[tuple[str, tuple[str, bool]], ...], ...] = ()
    licenses: tuple[str, ...] = ()
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
        named: dict[str, str] = {}
        lines = body.decode("utf-8-sig", "replace").splitlines()
        usage, licenses = _usage(lines, agent) if re.search(_USAGE.encode(), body, re.IGNORECASE) else ((), ())
        for number, line in enumerate(lines):
            if found := _AGENT.match(line):
                name = found[1].lower()
                if name in asked:
                    named.setdefault(name, found[1])
                lines[number] = f"User-agent: {name if name in asked or name == '*' else '-'}"
        if body.count(b"*") * (1 + len(named)) > _MAX_WILDCARDS:
            return cls(None, unreachable="too complex")
        agents = tuple(named[name] for name in sorted(named.keys() & AI_AGENTS - {agent.lower()}))
        parsed = Protego.parse("\n".join(lines))
        delay = max(0.0, float(parsed.crawl_delay(agent) or 0))
        return cls(parsed, agents, delay, usage=usage, licenses=licenses, size=200 + len(body))

    def refusal(self, url: str, agent: str) -> str:
        """Return why ``agent`` may not fetch ``url``; empty if it may."""
        if self.unreachable:
            return f"robots.txt: {self.unreachable}"
        return "" if self.parsed is None or self.parsed.can_fetch(url, agent) else "robots.txt"

    def opt_out(self, url: str) -> str:
        """Return the words by which ``url`` is withheld from AI use: rules for AI crawlers, usage preferences.

        Of the preferences in a group those with the longest path hold, and of those any that withholds.
        """
        if self.parsed is None:
            return ""
        closed = [f"robots.txt: User-agent: {name}" for name in self.agents if not self.parsed.can_fetch(url, name)]
        path = path_of(url)
        said = [words for group in self.usage for words, withheld in longest_matches(path, group) if withheld]
        return joined(*closed, *said)


def _usage(
    lines: list[str], agent: str
) -> tuple[tuple[tuple[tuple[str, tuple[str, bool]], ...], ...], tuple[str, ...]]:
    """Return what the lines about the use of content say to ``agent``, AI crawlers or all, and the RSL licences."""
    groups: dict[tuple[frozenset[str], str], list[tuple[str, tuple[str, bool]]]] = {}
    licenses: list[str] = []
    for scope, name, value in addressed(scoped_lines(lines, _USAGE), agent)[:_MAX_USAGE]:
        if name.lower() == "license":
            licenses.append(value)
            continue
        pattern, preferences = split_path(value)
        said = (quoted(f"robots.txt: {name}", value), withholds_training(preferences))
        groups.setdefault((scope, name.lower()), []).append((pattern, said))
    return tuple(map(tuple, groups.values())), tuple(dict.fromkeys(licenses))


def scoped_lines(lines: Iterable[str], names: str) -> Iterator[Scoped]:
    """Yield the lines of the given names (a regular expression) with the agents of their group.

    Before the first group a line is addressed to everyone, ``*``. As in RFC 9309, blank lines do not end a group.
    """
    known = re.compile(rf"\s*({names})\s*:\s*([^#]*)", re.IGNORECASE)
    scope = frozenset("*")
    naming = False  # whether the last rule was a User-agent line, so that the next one adds to the group
    for line in lines:
        if found := _AGENT.match(line):
            scope = scope | {found[1].lower()} if naming else frozenset({found[1].lower()})
            naming = True
        elif line and not line.isspace() and not line.lstrip().startswith("#"):
            naming = False
            if (rule := known.match(line)) and (value := rule[2].strip()):
                yield scope, rule[1], value


def addressed(lines: Iterable[Scoped], agent: str) -> list[Scoped]:
    """Return the lines addressed to ``agent``, or, if none of them names it, to ``*``; and those to AI crawlers."""
    found = list(lines)
    name = agent.lower()
    own = name if any(name in scope for scope, _, _ in found) else "*"
    return [line for line in found if own in line[0] or not line[0].isdisjoint(AI_AGENTS)]


def sitemaps(body: bytes) -> list[str]:
    """Return the sitemap URLs that a robots.txt names, as written."""
    lines = body.decode("utf-8-sig", "replace").splitlines()
    return [found[1] for line in lines if (found := _SITEMAP.match(line))]

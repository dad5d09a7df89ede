"""Opt-outs from AI use: the directives of headers and meta tags, and the policy that decides what they forbid.

Sources are ``X-Robots-Tag`` headers, robots ``<meta>`` tags, the W3C's TDM reservation and, in robots.txt, rules for
crawlers that feed AI models. A directive addressed to any such crawler counts as addressed to us.

All sources yield a set of *directives*, and one :class:`Policy` decides what they forbid. The directives that forbid
are recorded with the row, as the site wrote them.
A directive with a date (``unavailable_after``) is not evaluated: the result would depend on the day of the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["AI_AGENTS", "IMAGE", "LINKS", "PAGE", "Policy", "from_headers", "from_metas", "refusal"]

PAGE = frozenset({"noai", "noml", "noindex", "none", "tdm-reservation"})
"""Directives that forbid the use of the page or image they are served with."""
IMAGE = PAGE | {"noimageai", "noimageindex"}
"""Directives that forbid the use of an image, served with it or on a page that shows it."""
LINKS = frozenset({"nofollow", "none"})
"""Directives that forbid following a page's links."""

AI_AGENTS = frozenset(
    {
        "ai2bot",
        "ai2bot-dolma",
        "amazonbot",
        "anthropic-ai",
        "applebot-extended",
        "bytespider",
        "ccbot",
        "claude-web",
        "claudebot",
        "cohere-ai",
        "cohere-training-data-crawler",
        "diffbot",
        "facebookbot",
        "google-extended",
        "gptbot",
        "imagesiftbot",
        "img2dataset",
        "laiondownloader",
        "meta-externalagent",
        "omgili",
        "omgilibot",
        "pangubot",
        "timpibot",
        "webzio-extended",
    }
)
"""User agents, in lower case, of crawlers that collect training data."""

_SCOPE = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)\s*:(.*)", re.IGNORECASE | re.DOTALL)
_VALUED = frozenset(
    {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after", "indexifembedded", "tdm-reservation"}
)


def _directives(value: str, agents: frozenset[str]) -> Iterable[str]:
    """Yield the directives of one header value that are addressed to all crawlers or to one of ``agents``.

    Grammar: ``[agent:] directive[: value], ...``. An agent's name applies until the next one, because proxies join
    several headers with commas; a directive that takes a value is not an agent.
    """
    ours = True
    for part in value.split(","):
        if (scope := _SCOPE.fullmatch(part)) and scope[1].lower() not in _VALUED:
            ours = scope[1].lower() in agents or scope[1] == "*"
            part = scope[2]
        name, _, setting = (text.strip().lower() for text in part.partition(":"))
        if ours and name and (name != "tdm-reservation" or setting.strip("\"'") == "1"):
            yield name


def from_headers(headers: Iterable[tuple[str, str]], agent: str) -> frozenset[str]:
    """Return the directives in response headers addressed to ``agent``, to AI crawlers or to all crawlers."""
    found: set[str] = set()
    for name, value in headers:
        name = name.lower()
        if name == "x-robots-tag":
            found.update(_directives(value, AI_AGENTS | {agent.lower()}))
        elif name == "tdm-reservation" and value.strip().strip("\"'") == "1":
            found.add("tdm-reservation")
    return frozenset(found)


def from_metas(metas: Iterable[tuple[str, str]], agent: str) -> frozenset[str]:
    """Return the directives in ``<meta name content>`` tags, given as (name in lower case, content)."""
    agents = _meta_names(agent)
    found: set[str] = set()
    for name, content in metas:
        if name in agents:
            found.update([text for part in content.lower().split(",") if (text := part.strip())])
        elif name == "tdm-reservation" and content.strip() == "1":
            found.add("tdm-reservation")
    return frozenset(found)


@lru_cache(maxsize=8)
def _meta_names(agent: str) -> frozenset[str]:
    return AI_AGENTS | {agent.lower(), "robots"}


def refusal(directives: frozenset[str], forbidding: frozenset[str]) -> str:
    """Return the forbidding directives as text; empty if there are none."""
    return "" if directives.isdisjoint(forbidding) else ", ".join(sorted(directives & forbidding))


@dataclass(frozen=True)
class Policy:
    """Opt-out policy for the crawler ``agent``. Methods return the forbidding directives as text; empty: allowed."""

    agent: str
    page: frozenset[str] = PAGE
    image: frozenset[str] = IMAGE
    links: frozenset[str] = LINKS

    def of_file(self, headers: Iterable[tuple[str, str]], *, image: bool) -> str:
        """Return what the headers of a page or an image forbid about its own use."""
        return refusal(from_headers(headers, self.agent), self.image if image else self.page)

    def of_page(self, headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]]) -> str:
        """Return what a page forbids about its images. ``metas``: (name in lower case, content) of ``<meta>`` tags."""
        return refusal(self._directives(headers, metas), self.image)

    def of_links(self, headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]]) -> str:
        """Return what a page forbids about following its links."""
        return refusal(self._directives(headers, metas), self.links)

    def _directives(self, headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]]) -> frozenset[str]:
        of_metas = from_metas(metas, self.agent)
        return from_headers(headers, self.agent) | of_metas if headers else of_metas

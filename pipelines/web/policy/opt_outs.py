"""What a site says about the use of what it serves, and whether that forbids ours.

A site speaks through ``X-Robots-Tag`` headers, through robots ``<meta>`` tags, through the W3C's TDM reservation and,
for its robots.txt, by naming the crawlers that feed AI models. What is said to any such crawler is taken as said to us.

All of it comes down to a set of *directives*, and one :class:`Policy` decides what they forbid. What it decided is
recorded with the row, in the site's own words.
A directive with a date (``unavailable_after``) is not evaluated: the result would depend on the day of the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["AI_AGENTS", "IMAGE", "LINKS", "PAGE", "Policy", "from_headers", "from_metas", "refusal"]

PAGE = frozenset({"noai", "noml", "noindex", "none", "tdm-reservation"})
"""Directives that forbid the use of the thing itself that they come with, a page or an image."""
IMAGE = PAGE | {"noimageai", "noimageindex"}
"""Directives that forbid the use of an image: served with it, or said by the page that shows it."""
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
"""Names, in lower case, under which sites address crawlers that collect training data."""

_SCOPE = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)\s*:(.*)", re.IGNORECASE | re.DOTALL)
_VALUED = frozenset(
    {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after", "indexifembedded", "tdm-reservation"}
)


def _directives(value: str, agents: frozenset[str]) -> Iterable[str]:
    """The directives of one header value that are addressed to everybody or to one of ``agents``.

    Grammar: ``[agent:] directive[: value], ...``. An agent's name holds until the next one, because proxies join
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
    """The directives of a response's headers that are addressed to ``agent``, to AI crawlers or to everybody."""
    found: set[str] = set()
    for name, value in headers:
        name = name.lower()
        if name == "x-robots-tag":
            found.update(_directives(value, AI_AGENTS | {agent.lower()}))
        elif name == "tdm-reservation" and value.strip().strip("\"'") == "1":
            found.add("tdm-reservation")
    return frozenset(found)


def from_metas(metas: Iterable[tuple[str, str]], agent: str) -> frozenset[str]:
    """The same of a page's ``<meta name content>`` tags, by their names in lower case."""
    agents = _addressed(agent)
    found: set[str] = set()
    for name, content in metas:
        if name in agents:
            found.update([text for part in content.lower().split(",") if (text := part.strip())])
        elif name == "tdm-reservation" and content.strip() == "1":
            found.add("tdm-reservation")
    return frozenset(found)


@lru_cache(maxsize=8)
def _addressed(agent: str) -> frozenset[str]:
    return AI_AGENTS | {agent.lower(), "robots"}


def refusal(directives: frozenset[str], forbidding: frozenset[str]) -> str:
    """The directives that forbid, as text for the record; empty if none does."""
    return "" if directives.isdisjoint(forbidding) else ", ".join(sorted(directives & forbidding))


@dataclass(frozen=True)
class Policy:
    """What counts as an opt-out for the crawler ``agent``. The texts it returns say who forbade it; empty: nobody."""

    agent: str
    page: frozenset[str] = PAGE
    image: frozenset[str] = IMAGE
    links: frozenset[str] = LINKS

    def of_file(self, headers: Iterable[tuple[str, str]], *, image: bool) -> str:
        """What the headers of a page or an image say against its own use."""
        return refusal(from_headers(headers, self.agent), self.image if image else self.page)

    def of_page(self, headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]]) -> str:
        """What a page says against the use of its images, by its headers and its ``<meta>`` tags: name in lower case,
        content."""
        return refusal(self._said(headers, metas), self.image)

    def of_links(self, headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]]) -> str:
        """What it says against following its links."""
        return refusal(self._said(headers, metas), self.links)

    def _said(self, headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]]) -> frozenset[str]:
        of_metas = from_metas(metas, self.agent)
        return from_headers(headers, self.agent) | of_metas if headers else of_metas

"""Opt-outs from AI use in headers and meta tags, and the policy that decides what they forbid.

docs/rights.md lists the signals. A directive addressed to any crawler that feeds AI models counts as addressed to us,
and of two that contradict each other the stricter holds. Whatever forbids is recorded in the site's own words.
A directive with a date (``unavailable_after``) is not evaluated: the result would depend on the day of the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from infra.errors import printable
from pipelines.web.policy.agents import AI_AGENTS
from pipelines.web.policy.usage import withholds_training

__all__ = ["CRAWLED", "IMAGE", "LINKS", "PAGE", "Policy", "from_headers", "from_metas", "joined", "quoted", "refusal"]

Said = tuple[str, str, frozenset[str]]
"""A statement: the header's or tag's name, the site's own words, and the directives in them."""

PAGE = frozenset({"noai", "noml", "noindex", "none", "tdm-reservation", "no-training", "rsl"})
"""Directives that forbid the use of the page or image they are served with. The last two are no words of a site, but
stand for a usage preference that withholds training, and for licence terms that nobody has read."""
IMAGE = PAGE | {"noimageai", "noimageindex"}
"""Directives that forbid the use of an image, served with it or on a page that shows it."""
LINKS = frozenset({"nofollow", "none"})
"""Directives that forbid following a page's links."""

CRAWLED = "X-Crawl-Opt-Out"
"""Header of stored pages: what the files of the page's host (robots.txt and the like) withheld when it was crawled."""

_SCOPE = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)\s*:(.*)", re.IGNORECASE | re.DOTALL)
_VALUED = frozenset(
    {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after", "indexifembedded", "tdm-reservation"}
)
_RSL_LINK = re.compile(r"<([^<>]{1,2000})>([^<>]{0,500}?\brsl\+xml\b)", re.IGNORECASE)
_WORDS = 200  # characters of a statement that are recorded
_RESERVED = frozenset({"tdm-reservation"})
_NO_TRAINING = frozenset({"no-training"})
_NOTHING: frozenset[str] = frozenset()


def quoted(name: str, value: str) -> str:
    """Return ``name: value`` on one line, cut to a bearable length, without control characters."""
    return printable(f"{name}: {' '.join(value[: 4 * _WORDS].split())[:_WORDS]}")


def joined(*words: str) -> str:
    """Return several statements as one text, each once; empty ones are left out."""
    text = ""
    for one in words:
        if one not in text:
            text = f"{text}; {one}" if text else one
    return text


def _directives(value: str, agents: frozenset[str]) -> Iterator[str]:
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


def from_headers(headers: Iterable[tuple[str, str]], agent: str) -> Iterator[Said]:
    """Yield the statements of response headers addressed to ``agent``, to AI crawlers or to all crawlers."""
    for name, value in headers:
        lower = name.lower()
        if lower == "x-robots-tag":
            yield name, value, frozenset(_directives(value, AI_AGENTS | {agent.lower()}))
        elif lower == "tdm-reservation":
            yield name, value, _RESERVED if value.strip().strip("\"'") == "1" else _NOTHING
        elif lower in ("content-usage", "content-signal"):
            yield name, value, _NO_TRAINING if withholds_training(value) else _NOTHING
        elif lower == "link" and (link := _RSL_LINK.search(value)):
            yield name, link[0], frozenset({"rsl"})


def from_metas(metas: Iterable[tuple[str, str]], agent: str) -> Iterator[Said]:
    """Yield the statements of ``<meta name content>`` tags, given as (name in lower case, content)."""
    agents = _meta_names(agent)
    for name, content in metas:
        if name in agents:
            parts = content.lower().split(",")
            yield f"meta {name}", content, frozenset([text for part in parts if (text := part.strip())])
        elif name == "tdm-reservation" and content.strip() == "1":
            yield f"meta {name}", content, _RESERVED


@lru_cache(maxsize=8)
def _meta_names(agent: str) -> frozenset[str]:
    return AI_AGENTS | {agent.lower(), "robots"}


def refusal(said: Iterable[Said], forbidding: frozenset[str]) -> str:
    """Return the statements with a forbidding directive as text; empty if there are none."""
    return joined(*[quoted(name, words) for name, words, directives in said if not directives.isdisjoint(forbidding)])


@dataclass(frozen=True)
class Policy:
    """Opt-out policy for the crawler ``agent``. Methods return the words that forbid; empty: allowed."""

    agent: str
    page: frozenset[str] = PAGE
    image: frozenset[str] = IMAGE
    links: frozenset[str] = LINKS

    def of_file(self, headers: Iterable[tuple[str, str]], *, image: bool) -> str:
        """Return what the headers of a page or an image forbid about its own use."""
        return refusal(from_headers(headers, self.agent), self.image if image else self.page)

    def of_page(self, headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]], rsl: str = "") -> str:
        """Return what a page forbids about its images.

        ``metas``: (name in lower case, content) of ``<meta>`` tags. ``rsl``: URL of the page's RSL licence, whose terms
        an archive does not hold.
        """
        words = self._refusal(headers, metas, self.image)
        if headers and (crawled := next((value for name, value in headers if name == CRAWLED), "")):
            words = joined(crawled, words)
        return joined(words, quoted("rel=license, application/rsl+xml", rsl)) if rsl else words

    def of_links(self, headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]]) -> str:
        """Return what a page forbids about following its links."""
        return self._refusal(headers, metas, self.links)

    def _refusal(
        self, headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]], forbidding: frozenset[str]
    ) -> str:
        of_metas = refusal(from_metas(metas, self.agent), forbidding)
        return joined(refusal(from_headers(headers, self.agent), forbidding), of_metas) if headers else of_metas

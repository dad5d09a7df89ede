"""Resolve the URLs on a page, with a fast path.

Parsing a URL by the standard takes several microseconds, more than all other work on most images. But most URLs on most
pages are canonical as written, or once appended to the page's origin or folder; a regular expression recognises these,
and only the others are parsed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.web.urls import MAX_LENGTH, BadUrlError, canonical, origin_of

__all__ = ["Base", "fast_canonical"]

# A path and a query of characters that the standard leaves unchanged, if there are no dot segments.
_PATH = r"[!$&(-;=@-Z_a-z~]*+(?:\?[!$%&(-;=?@-Z_a-z~]*+)?"
# A host that ends in letters (else it may be an encoded IPv4 address) and has no two hyphens in a row (so no "xn--"),
# without a port.
_ORIGIN = r"https?://(?:[a-z0-9]++[.-])++[a-z]{2,}+"
_ABSOLUTE = re.compile(f"{_ORIGIN}/{_PATH}")
# Absolute; or relative to the root of the site, the first group; or to the folder of the page, the second.
_PLAIN = re.compile(f"{_ORIGIN}/{_PATH}|(/(?!/){_PATH})|([A-Za-z0-9]{_PATH.replace('(-;', '(-9;')})")
_MAX_CACHED = 10_000


def fast_canonical(url: str) -> str:
    """Canonicalise an absolute URL, like :func:`pipelines.web.urls.canonical` but faster. Raises BadUrlError."""
    return url if _is_canonical(url) else canonical(url)


def _is_canonical(url: str) -> bool:
    """Return True if ``url`` is certainly canonical."""
    return _ABSOLUTE.fullmatch(url) is not None and "/." not in url and len(url) <= MAX_LENGTH


class Base:
    """Base URL of a page, canonical."""

    def __init__(self, url: str) -> None:
        self.url = url
        path = url.partition("?")[0]
        folder = path[: path.rindex("/") + 1]
        self._prefixes = ("", origin_of(url), folder)  # by group of the expression
        self._longest = MAX_LENGTH - len(folder)
        self._cache: dict[str, str] = {}  # of URLs off the fast path: pages repeat them

    def resolve(self, url: str) -> str:
        """Return the canonical absolute form of ``url``; empty if :func:`pipelines.web.urls.canonical` refuses it."""
        known = self._cache.get(url)
        if known is None:
            try:
                known = canonical(url, self.url)
            except BadUrlError:
                known = ""
            if len(self._cache) < _MAX_CACHED:
                self._cache[url] = known
        return known

    def images(self, urls: Sequence[str | None]) -> list[str]:
        """Resolve URLs as written in the markup; empty for a missing one and for a fragment of the page itself."""
        match, prefixes, longest = _PLAIN.fullmatch, self._prefixes, self._longest
        return [
            prefixes[plain.lastindex or 0] + url
            if url and (plain := match(url)) and "/." not in url and len(url) <= longest
            else self.resolve(stripped)
            if url and (stripped := url.strip()) and stripped[0] != "#"
            else ""
            for url in urls
        ]

"""The addresses on a page made absolute, quickly.

Parsing a URL by the standard takes several microseconds, more than everything else that is done to most images. Most
addresses on most pages are canonical as they stand, though, or once they are put behind the page's own; a regular
expression that admits only such knows them, and all others take the long way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.web.urls import MAX_LENGTH, BadUrlError, canonical, origin_of

__all__ = ["Base", "quick"]

# A path and a query of characters that no step of the standard changes, once there are no dot segments.
_PATH = r"[!$&(-;=@-Z_a-z~]*+(?:\?[!$%&(-;=?@-Z_a-z~]*+)?"
# A host that ends in letters (else it may be an IPv4 address in disguise) and has no two hyphens in a row (nor "xn--"),
# without a port.
_ORIGIN = r"https?://(?:[a-z0-9]++[.-])++[a-z]{2,}+"
_ABSOLUTE = re.compile(f"{_ORIGIN}/{_PATH}")
# The same; or from the root of the site, the first group; or from the folder of the page, the second.
_PLAIN = re.compile(f"{_ORIGIN}/{_PATH}|(/(?!/){_PATH})|([A-Za-z0-9]{_PATH.replace('(-;', '(-9;')})")
_MAX_KNOWN = 10_000


def quick(url: str) -> str:
    """:func:`pipelines.web.urls.canonical` of an absolute address. Raises BadUrlError."""
    return url if _is_canonical(url) else canonical(url)


def _is_canonical(url: str) -> bool:
    """Whether ``url`` is canonical beyond doubt."""
    return _ABSOLUTE.fullmatch(url) is not None and "/." not in url and len(url) <= MAX_LENGTH


class Base:
    """What addresses are relative to: a canonical URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        path = url.partition("?")[0]
        folder = path[: path.rindex("/") + 1]
        self._prefixes = ("", origin_of(url), folder)  # by group of the expression
        self._longest = MAX_LENGTH - len(folder)
        self._known: dict[str, str] = {}  # of addresses that take the long way: pages repeat themselves

    def resolve(self, address: str) -> str:
        """The canonical absolute form of ``address``; empty where :func:`pipelines.web.urls.canonical` refuses it."""
        known = self._known.get(address)
        if known is None:
            try:
                known = canonical(address, self.url)
            except BadUrlError:
                known = ""
            if len(self._known) < _MAX_KNOWN:
                self._known[address] = known
        return known

    def images(self, addresses: Sequence[str | None]) -> list[str]:
        """:meth:`resolve` of each, as the markup has them; empty for a missing one and a place on the page itself."""
        match, prefixes, longest = _PLAIN.fullmatch, self._prefixes, self._longest
        return [
            prefixes[plain.lastindex or 0] + address
            if address and (plain := match(address)) and "/." not in address and len(address) <= longest
            else self.resolve(stripped)
            if address and (stripped := address.strip()) and stripped[0] != "#"
            else ""
            for address in addresses
        ]

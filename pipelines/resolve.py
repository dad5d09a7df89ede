"""The addresses on a page made absolute, quickly.

Parsing a URL by the standard takes several microseconds, more than everything else that is done to most images. Most
addresses on most pages are canonical as they stand, though, or once they are put behind the page's own; a regular
expression that admits only such knows them, and all others take the long way.
"""

from __future__ import annotations

import re

from pipelines.urls import MAX_LENGTH, BadUrlError, canonical, origin_of

__all__ = ["Base"]

# A host of two or more plain labels, the last in letters (else it may be an IPv4 address in disguise), without a port;
# a path and a query of characters that no step of the standard changes. Not in here: dot segments and "xn--".
_PLAIN = re.compile(
    r"https?://(?!xn--)(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.(?!xn--))+[a-z]{2,}"
    r"(?:/(?!\.)[A-Za-z0-9_~!$&()*+,;=:@.-]*)+(?:\?[A-Za-z0-9_~!$&()*+,;=:@./?%-]*)?"
)
_MAX_KNOWN = 10_000


class Base:
    """What addresses are relative to: a canonical URL. ``resolve`` remembers, since pages repeat themselves."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._known: dict[str, str] = {}
        self._origin = origin_of(url)
        path = url.partition("?")[0]
        self._folder = path[: path.rindex("/") + 1]

    def resolve(self, address: str) -> str:
        """The canonical absolute form of ``address``, as :func:`pipelines.urls.canonical` gives it. Raises as well."""
        known = self._known.get(address)
        if known is None:
            known = self._resolve(address)
            if len(self._known) < _MAX_KNOWN:
                self._known[address] = known
        if not known:
            raise BadUrlError("not an address")
        return known

    def _resolve(self, address: str) -> str:
        guess = address
        if address[:1] == "/" != address[1:2]:
            guess = f"{self._origin}{address}"
        elif address[:1].isalnum() and ":" not in address:
            guess = f"{self._folder}{address}"
        if _PLAIN.fullmatch(guess) and len(guess) <= MAX_LENGTH:
            return guess
        try:
            return canonical(address, self.url)
        except BadUrlError:
            return ""

"""The addresses on a page made absolute, quickly.

Parsing a URL by the standard takes several microseconds, more than everything else that is done to most images. Most
addresses on most pages are canonical as they stand, though, or once they are put behind the page's own; a regular
expression that admits only such knows them, and all others take the long way.
"""

from __future__ import annotations

import re

from pipelines.urls import MAX_LENGTH, BadUrlError, canonical, origin_of

__all__ = ["Base", "quick"]

# A path and a query of characters that no step of the standard changes, once there are no dot segments.
_PATH = r"/[A-Za-z0-9_~!$&()*+,;=:@./-]*+(?:\?[A-Za-z0-9_~!$&()*+,;=:@./?%-]*+)?"
# A host of two or more plain labels, the last in letters (else it may be an IPv4 address in disguise), without a port.
_PLAIN = re.compile(r"https?://(?!xn--)(?:[a-z0-9-]++\.(?!xn--))++[a-z]{2,}+" + _PATH)
_REST = re.compile(_PATH)
_MAX_KNOWN = 10_000


def quick(url: str) -> str:
    """:func:`pipelines.urls.canonical` of an absolute address. Raises BadUrlError."""
    return url if _is_canonical(url) else canonical(url)


def _is_canonical(url: str) -> bool:
    """Whether ``url`` is canonical beyond doubt."""
    return _PLAIN.fullmatch(url) is not None and "/." not in url and len(url) <= MAX_LENGTH


class Base:
    """What addresses are relative to: a canonical URL. ``resolve`` remembers, since pages repeat themselves."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._known: dict[str, str] = {}
        self._origin = origin_of(url)
        path = url.partition("?")[0]
        self._folder = path[: path.rindex("/") + 1]

    def resolve(self, address: str) -> str:
        """The canonical absolute form of ``address``; empty where :func:`pipelines.urls.canonical` refuses it."""
        known = self._known.get(address)
        if known is None:
            known = self._resolve(address)
            if len(self._known) < _MAX_KNOWN:
                self._known[address] = known
        return known

    def _resolve(self, address: str) -> str:
        if address.startswith("http"):
            if _is_canonical(address):
                return address
        elif "/." not in address and len(address) + len(self._folder) <= MAX_LENGTH:
            if address[:1] == "/" != address[1:2]:
                if _REST.fullmatch(address):
                    return f"{self._origin}{address}"
            elif address[:1].isalnum() and ":" not in address and _REST.fullmatch(f"/{address}"):
                return f"{self._folder}{address}"
        try:
            return canonical(address, self.url)
        except BadUrlError:
            return ""

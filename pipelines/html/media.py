"""Is a response an HTML page? Its Content-Type as browsers read it, and its first bytes where that says nothing.

As the WHATWG's MIME Sniffing standard and Fetch's "extract a MIME type": of several types the last counts, what is no
type counts as none, and without one the first bytes decide. As in Chrome a type also ends at a space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["content_type", "is_html", "names_html"]

_TYPE = re.compile(r"[ \t\"']*([!#$%&*+.^_`|~\w-]+/[!#$%&*+.^_`|~\w-]+)")
_UNKNOWN = frozenset({"", "unknown/unknown", "application/unknown", "*/*"})
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*(?=<!doctype html|<html))?<[a-z!]", re.IGNORECASE)


def content_type(headers: Iterable[tuple[str, str]]) -> str:
    """Return the Content-Type that counts, with its parameters; empty if none is a media type."""
    found = ""
    for name, value in headers:
        if name.lower() == "content-type":
            for part in value.split(","):
                if (kind := _TYPE.match(part)) and kind[1] != "*/*":
                    found = part.strip()
                elif "charset" in part.lower() and found:
                    found += f"; {part}"
    return found


def names_html(kind: str) -> bool | None:
    """Return whether Content-Type ``kind`` is that of a page; None if it says nothing, and the first bytes decide."""
    named = _TYPE.match(kind)
    essence = named[1].lower() if named else ""
    return None if essence in _UNKNOWN else essence in _HTML


def is_html(kind: str, body: bytes) -> bool:
    """Return True if a browser would show ``body``, sent as Content-Type ``kind``, as a page."""
    named = names_html(kind)
    return _MARKUP.match(body) is not None if named is None else named

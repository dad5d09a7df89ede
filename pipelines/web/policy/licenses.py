"""Licences in ``Link`` headers (RFC 8288): ``Link: <https://creativecommons.org/licenses/by/4.0/>; rel="license"``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipelines.web.urls import BadUrlError, canonical

__all__ = ["license_of_headers"]

_LINK = re.compile(r"<([^<>]{1,2000})>([^<>]{0,500})")
_REL = re.compile(r"""\brel\s*=\s*(?:"[^"]*\blicense\b[^"]*"|license\b)""", re.IGNORECASE)


def license_of_headers(headers: Iterable[tuple[str, str]], base: str) -> str:
    """Return the canonical URL of the first licence that the headers of ``base`` link to; empty if there is none."""
    for name, value in headers:
        if name.lower() != "link" or "license" not in value.lower():
            continue
        for link in _LINK.finditer(value):
            if _REL.search(link[2]):
                try:
                    return canonical(link[1], base)
                except BadUrlError:
                    continue
    return ""

"""Resolve the URLs on a page, with a fast path.

Parsing a URL by the standard takes several microseconds, more than all other work on most images. But most URLs on most
pages are canonical as written, or once appended to the page's origin or folder; a regular expression recognises these,
thousands at once, and only the others are parsed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.html.arrays import Array, matches, strings, true
from pipelines.web.urls import MAX_LENGTH, BadUrlError, canonical, origin_of

__all__ = ["fast_canonical", "resolved"]

# Paths and queries of characters that the standard leaves unchanged, without segments that begin with a dot.
_QUERY = r"(?:\?[!$%&(-;=?@-Z_a-z~]*)?"
_SEGMENT = r"[!$&(-\-0-;=@-Z_a-z~][!$&(-.0-;=@-Z_a-z~]*"
_PATH = f"(?:{_SEGMENT}(?:/+{_SEGMENT})*/*)?{_QUERY}"
# A host that ends in letters (else it may be an encoded IPv4 address) and has no two hyphens in a row (so no "xn--"),
# without a port.
_ORIGIN = r"https?://(?:[a-z0-9]+[.-])+[a-z]{2,}"
# Absolute; below the root of the site, without "//" that begins a host; below the page's folder, without ":".
_PLAIN = f"^(?:{_ORIGIN}/+{_PATH}|/{_PATH}|[A-Za-z0-9][!$&(-.0-9;=@-Z_a-z~]*(?:/+{_SEGMENT})*/*{_QUERY})$"
_CANONICAL = re.compile(rf"{_ORIGIN}/[!$&(-;=@-Z_a-z~]*+{_QUERY}")


def fast_canonical(url: str) -> str:
    """Canonicalise an absolute URL, like :func:`pipelines.web.urls.canonical` but faster. Raises BadUrlError."""
    is_canonical = len(url) <= MAX_LENGTH and "/." not in url and _CANONICAL.fullmatch(url) is not None
    return url if is_canonical else canonical(url)


def resolved(written: pa.StringArray, bases: Sequence[str], page: Array) -> pa.StringArray:
    """Return the canonical absolute forms of URLs of images, each on a page with the canonical base ``bases[page]``.

    Null for a missing URL, a fragment of the page itself, and what :func:`pipelines.web.urls.canonical` refuses.
    """
    # By "https:", "/" or else, a plain URL is complete, or goes below the page's site or folder.
    is_absolute, is_of_site = _begin(written, "https:") | _begin(written, "http:"), _begin(written, "/")
    beginnings = strings(["", *map(origin_of, bases), *map(_folder, bases)])
    which = np.where(is_absolute, 0, 1 + page + np.where(is_of_site, 0, len(bases)))
    urls = pc.binary_join_element_wise(beginnings.take(pa.array(which)), written, "")
    is_plain = true(matches(written, _PLAIN))
    is_plain &= true(pc.less_equal(pc.binary_length(urls), MAX_LENGTH))
    others = np.flatnonzero(~is_plain)
    if not others.size:
        return urls
    known: dict[tuple[str, str], str | None] = {}  # pages repeat them
    found = []
    for url, number in zip(written.take(others).to_pylist(), page[others].tolist(), strict=True):
        key = (url or "").strip(), bases[number]
        if key not in known:
            known[key] = _resolved(*key)
        found.append(known[key])
    return pc.replace_with_mask(urls, pa.array(~is_plain), strings(found))


def _begin(texts: pa.StringArray, prefix: str) -> Array:
    return true(pc.starts_with(texts, prefix))


def _resolved(url: str, base: str) -> str | None:
    if not url or url.startswith("#"):
        return None
    try:
        return canonical(url, base)
    except BadUrlError:
        return None


def _folder(url: str) -> str:
    path = url.partition("?")[0]
    return path[: path.rindex("/") + 1]

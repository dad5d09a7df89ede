"""Canonical URLs, parsed as browsers do.

Parsing follows the WHATWG standard (the ada library), since the pages we read were written for browsers, and since a
guard is only as good as its parser: ``http://0x7f.1/`` and ``http://2130706433/`` come out as ``127.0.0.1``.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from ada_url import URL, normalize_url

from infra.errors import redact

__all__ = [
    "MAX_LENGTH",
    "BadUrlError",
    "canonical",
    "host_of",
    "is_address",
    "matches",
    "origin_of",
    "shown",
    "without_parameters",
]

_USER = re.compile(r"^(\s*(?:[a-z][a-z0-9+.-]*:[/\\]*|[/\\]{2,}))[^/\\?#]*@", re.IGNORECASE)
_SECRET = re.compile(r"([?&;](?:pwd|auth)=)[^&;#\s]+", re.IGNORECASE)  # names that are secrets in addresses only
MAX_LENGTH = 4096  # characters; far above what servers accept in practice


class BadUrlError(ValueError):
    """Not a URL that may be fetched; the message says why, without quoting the URL."""


def canonical(url: str, base: str | None = None) -> str:
    """Return the canonical absolute form of ``url``, resolved against ``base``, without fragment.

    Lower-case ASCII host (IDNA), no default port, no dot segments, percent-encoding where needed. Only http and https,
    no user info, at most :data:`MAX_LENGTH` characters. Raises BadUrlError.
    """
    if len(url) > MAX_LENGTH:
        raise BadUrlError("over-long URL")
    try:
        href = str(normalize_url(url) if base is None else URL(url, base).href)
    except ValueError:
        raise BadUrlError("not a URL") from None
    if "#" in href:
        href = href[: href.index("#")]
    if not href.startswith(("http://", "https://")):
        raise BadUrlError(f"scheme {href.partition(':')[0][:20]}: is not http or https")
    authority = href.split("/", 3)[2]
    if "@" in authority:
        raise BadUrlError("URL with a user part")
    if authority.startswith("."):  # which the standard accepts as a host
        raise BadUrlError("URL without a host")
    if len(href) > MAX_LENGTH:
        raise BadUrlError("over-long URL")
    return href


def shown(url: str) -> str:
    """Return a URL, canonical or not, as it may be written: without user part, and secret parameters masked."""
    return _SECRET.sub(r"\1***", redact(_USER.sub(r"\1***@", url)))


def host_of(url: str) -> str:
    """Return the host of a canonical URL, without port, IPv6 brackets or trailing dot."""
    start = url.index("://") + 3
    host = url[start : url.index("/", start)]
    if host.startswith("["):
        return host[1 : host.index("]")]
    return host.partition(":")[0].rstrip(".")


def is_address(host: str) -> bool:
    """True if the host of a canonical URL is an IP address rather than a name.

    By the WHATWG standard a host is an IPv4 address if its last label is a number; ``static1`` and ``img.host2`` are
    names. True also for what is left of ``1..``, which the standard takes for a name although it can be none.
    """
    return ":" in host or host[host.rfind(".") + 1 :].isdigit()


def origin_of(url: str) -> str:
    """Return ``scheme://host[:port]`` of a canonical URL."""
    return url[: url.index("/", url.index("://") + 3)]


def matches(host: str, pattern: str) -> bool:
    """Return True if ``host`` matches a shell-style pattern such as ``*.example``."""
    return fnmatchcase(host, pattern.lower())


def without_parameters(url: str, patterns: tuple[str, ...]) -> str:
    """Remove the query parameters whose names match one of ``patterns`` from a canonical URL."""
    path, question, query = url.partition("?")
    if not question:
        return url
    kept = [
        part for part in query.split("&") if not any(fnmatchcase(part.partition("=")[0], name) for name in patterns)
    ]
    return f"{path}?{'&'.join(kept)}" if any(kept) else path

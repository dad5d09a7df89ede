"""URLs as browsers read them: one canonical spelling per address, and the reasons to refuse one.

Parsing follows the WHATWG standard (the ada library), since that is what the pages we read were written for, and since
a guard is only as good as its parser: ``http://0x7f.1/`` and ``http://2130706433/`` come out as ``127.0.0.1``.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from ada_url import URL, normalize_url

__all__ = [
    "MAX_LENGTH",
    "BadUrlError",
    "canonical",
    "host_of",
    "is_address",
    "matches",
    "origin_of",
    "without_parameters",
]

MAX_LENGTH = 4096  # characters; far above what servers accept in practice


class BadUrlError(ValueError):
    """Not an address we would ever ask: the message says why, without quoting the URL."""


def canonical(url: str, base: str | None = None) -> str:
    """The canonical absolute form of ``url``, relative to ``base``, without fragment.

    Lower-case ASCII host (IDNA), no default port, no dot segments, percent-encoding where needed. Only http and https,
    no user part, at most :data:`MAX_LENGTH` characters. Raises BadUrlError.
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
    if authority.startswith("."):  # which the standard takes for a host
        raise BadUrlError("URL without a host")
    if len(href) > MAX_LENGTH:
        raise BadUrlError("over-long URL")
    return href


def host_of(url: str) -> str:
    """The host of a canonical URL, without port, brackets of an IPv6 address, or the dot that may end a name."""
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
    """``scheme://host[:port]`` of a canonical URL."""
    return url[: url.index("/", url.index("://") + 3)]


def matches(host: str, pattern: str) -> bool:
    """Whether ``host`` fits a shell-style pattern such as ``*.example``."""
    return fnmatchcase(host, pattern.lower())


def without_parameters(url: str, patterns: tuple[str, ...]) -> str:
    """A canonical URL without the query parameters whose names fit one of ``patterns``; the rest keeps its order."""
    path, question, query = url.partition("?")
    if not question:
        return url
    kept = [
        part for part in query.split("&") if not any(fnmatchcase(part.partition("=")[0], name) for name in patterns)
    ]
    return f"{path}?{'&'.join(kept)}" if any(kept) else path

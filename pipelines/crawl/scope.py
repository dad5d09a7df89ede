"""Which links belong to a crawl, and in which spelling."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from infra.schema import Drop
from pipelines.crawl.frontier_tables import Found
from pipelines.crawl.stage import Config, Due
from pipelines.crawl.traps import trap, without_session
from pipelines.web.urls import host_of, matches, without_parameters

if TYPE_CHECKING:
    from tldextract import TLDExtract

__all__ = ["Scope", "registered_domain"]

_IMAGES = (".avif", ".bmp", ".gif", ".ico", ".jpeg", ".jpg", ".jxl", ".png", ".svg", ".tif", ".tiff", ".webp")


class Scope:
    """Decides by host (of the seeds, or their registered domains, or as allowed), then by what the URL looks like."""

    def __init__(self, config: Config) -> None:
        self._config = config
        starts = [host_of(url) for url in (*config.seeds, *config.sitemaps) if url != "robots"]
        self._any = config.scope == "any" and not config.allowed_hosts
        self._domains: frozenset[str] = frozenset()
        hosts: tuple[str, ...] = config.allowed_hosts
        if not hosts and config.scope == "host":
            hosts = tuple(twin for host in starts for twin in _twins(host))
        elif not hosts and config.scope == "domain":
            self._domains = frozenset(map(registered_domain, starts))
        self._exact = {host for host in hosts if not set(host) & set("*?[")}
        self._patterns = [host for host in hosts if set(host) & set("*?[")]
        self._include = [re.compile(pattern) for pattern in config.include]
        self._exclude = [re.compile(pattern) for pattern in config.exclude]

    def tidy(self, url: str) -> str:
        """A canonical URL without what tells visitors apart, not pages."""
        return without_parameters(without_session(url), self._config.ignored_parameters)

    def found(self, position: int, due: Due) -> Found:
        """A URL of the crawl as the frontier takes it: to be fetched, or too far away, or a trap."""
        config = self._config
        if not due.listed:
            if rule := trap(due.url, config.traps):
                return Found(position, due, Drop.TRAP, rule)
            if config.max_depth is not None and due.depth > config.max_depth:
                return Found(position, due, Drop.BUDGET, "depth")
        return Found(position, due)

    def outside(self, url: str) -> str:
        """Why a canonical URL is not part of the crawl; empty if it is."""
        if not self._any and not self._has(host_of(url)):
            return "off_site"
        if url.partition("?")[0].lower().endswith(_IMAGES):
            return "image"
        if self._include and not any(pattern.search(url) for pattern in self._include):
            return "not_included"
        if any(pattern.search(url) for pattern in self._exclude):
            return "excluded"
        return ""

    def _has(self, host: str) -> bool:
        return (
            host in self._exact
            or any(matches(host, pattern) for pattern in self._patterns)
            or (bool(self._domains) and registered_domain(host) in self._domains)
        )


def _twins(host: str) -> tuple[str, str]:
    """A host with and without ``www.``: sites redirect from one to the other."""
    bare = host.removeprefix("www.")
    return bare, f"www.{bare}"


@lru_cache(1 << 14)
def registered_domain(host: str) -> str:
    """What one owner holds: ``bbc.co.uk`` of ``www.bbc.co.uk``, ``me.github.io`` of itself. Of a host that has none,
    such as an address, the host."""
    found = _suffixes().extract_str(host)
    if not found.suffix:
        # Under an unknown suffix, the last label is it: the public suffix list's own rule.
        labels = [found.domain] if not found.subdomain else [found.subdomain.rpartition(".")[2], found.domain]
        return ".".join(labels)
    return found.top_domain_under_public_suffix or host


@cache
def _suffixes() -> TLDExtract:
    """The public suffix list as it came with the package: the same for every worker, and nothing is downloaded."""
    from tldextract import TLDExtract

    return TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=True)

"""Scope of a crawl: which links belong to it, in which spelling."""

from __future__ import annotations

import re
from functools import cache, lru_cache

from tldextract import TLDExtract

from infra.images.formats import EXTENSIONS, REFUSED, extension_of
from infra.schema import Drop
from pipelines.crawl.config import Config
from pipelines.crawl.frontier_tables import Due, Found
from pipelines.crawl.traps import trap, without_session
from pipelines.web.urls import host_of, matches, without_parameters

__all__ = ["Scope", "registered_domain"]

_IMAGES = frozenset({*EXTENSIONS, *REFUSED} - {"pdf"})


class Scope:
    """Decides by host (those of the seeds, their registered domains, or as configured), then by URL."""

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

    def normalize(self, url: str) -> str:
        """Remove session ids and ignored parameters from a canonical URL."""
        return without_parameters(without_session(url), self._config.ignored_parameters)

    def found(self, position: int, due: Due) -> Found:
        """Return a URL of the crawl as a row of the frontier, with a drop reason if it is too deep or a trap."""
        config = self._config
        if not due.listed:
            if rule := trap(due.url, config.traps):
                return Found(position, due, Drop.TRAP, rule)
            if config.max_depth is not None and due.depth > config.max_depth:
                return Found(position, due, Drop.BUDGET, "depth")
        return Found(position, due)

    def outside(self, url: str) -> str:
        """Return why a canonical URL is outside the crawl; empty if it is inside."""
        if not self._any and not self._is_in_scope(host_of(url)):
            return "off_site"
        if extension_of(url) in _IMAGES:
            return "image"
        if self._include and not any(pattern.search(url) for pattern in self._include):
            return "not_included"
        if any(pattern.search(url) for pattern in self._exclude):
            return "excluded"
        return ""

    def _is_in_scope(self, host: str) -> bool:
        return (
            host in self._exact
            or any(matches(host, pattern) for pattern in self._patterns)
            or (bool(self._domains) and registered_domain(host) in self._domains)
        )


def _twins(host: str) -> tuple[str, str]:
    """Return a host without and with ``www.``: sites redirect from one to the other."""
    bare = host.removeprefix("www.")
    return bare, f"www.{bare}"


@lru_cache(1 << 14)
def registered_domain(host: str) -> str:
    """Return the registered domain: ``bbc.co.uk`` of ``www.bbc.co.uk``, ``me.github.io`` of itself.

    A host that has none, such as an IP address, is returned as it is.
    """
    found = _suffixes().extract_str(host)
    if not found.suffix:
        # Of an unknown suffix, the last label counts as the suffix: the public suffix list's own rule.
        labels = [found.domain] if not found.subdomain else [found.subdomain.rpartition(".")[2], found.domain]
        return ".".join(labels)
    return found.top_domain_under_public_suffix or host


@cache
def _suffixes() -> TLDExtract:
    """Load the public suffix list of the package: the same for every worker, and nothing is downloaded."""
    return TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=True)

"""Counts of failed rows by host, for the progress line and the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from infra.schema import Status
from pipelines.web.urls import BadUrlError, canonical, host_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["failing_hosts", "host", "worst"]

_WORST = 20  # hosts named


def host(listed: str) -> str:
    """The host of a URL as a list spells it; empty for what is no URL."""
    try:
        return host_of(canonical(listed))
    except BadUrlError:
        return ""


def worst(failing: Mapping[str, int]) -> dict[str, int]:
    """The hosts with the most failed rows, at most 20, most first."""
    return dict(sorted(failing.items(), key=lambda item: (-item[1], item[0]))[:_WORST])


def failing_hosts(table: pa.Table) -> dict[str, int]:
    """The hosts with the most rows of a shard that could not be downloaded, with their number."""
    rows = zip(table["url"].to_pylist(), table["status"].to_pylist(), strict=True)
    failing = Counter(host(url) for url, status in rows if status == Status.FAILED_TO_DOWNLOAD)
    del failing[""]
    return worst(failing)

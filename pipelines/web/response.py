"""The two results of a fetch: a ``Response``, or a ``FetchError`` with the reason there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from infra.errors import printable, redact
from infra.schema import Drop

__all__ = ["FetchError", "ResourceType", "Response"]

ResourceType = Literal["page", "image", "sitemap", "robots", "policy"]
"""Decides the Accept header, the size limit and the checks. ``robots`` and ``policy`` are files about a host's
policy: fetched for permission, they need none themselves."""

_REDIRECT = frozenset({301, 302, 303, 307, 308})


class FetchError(Exception):
    """A fetch failed. ``reason`` is for the funnel; ``detail``, for people, never holds an address, port or time.

    ``transient``: another attempt may succeed; ``silent``: the host did not answer, as far as the error tells.
    """

    def __init__(
        self,
        reason: Drop,
        detail: str = "",
        *,
        transient: bool = False,
        silent: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        detail = redact(printable(detail)) if detail else ""
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason, self.detail, self.transient, self.silent = reason, detail, transient, silent
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Response:
    """HTTP response with decoded ``body``, ``headers`` as received, in order, and the ``redirects`` (URLs) followed.

    ``opt_out``: the words by which host or headers withhold it from AI use, where that is not obeyed.
    """

    url: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    redirects: tuple[str, ...] = field(default=())
    opt_out: str = ""

    def header(self, name: str, default: str = "") -> str:
        """Return the first header of that name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), default)

    @property
    def is_redirect(self) -> bool:
        return self.status in _REDIRECT

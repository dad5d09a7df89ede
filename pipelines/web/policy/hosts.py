"""Policies of hosts, read from robots.txt and the rights files: what may be fetched, how fast, and used for AI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from pipelines.web.config import Web
from pipelines.web.policy.opt_outs import joined, quoted
from pipelines.web.policy.policy_file import PolicyFiles
from pipelines.web.policy.robots import RobotsRules
from pipelines.web.policy.rsl import Terms
from pipelines.web.policy.site_files import AiTxt, TrustTxt
from pipelines.web.policy.tdmrep import PATH, Reservations
from pipelines.web.politeness.single_flight import FileResult
from pipelines.web.response import FetchError, ResourceType
from pipelines.web.urls import BadUrlError, canonical, origin_of

__all__ = ["HostPolicies"]

Load = Callable[[ResourceType, str], Awaitable[FileResult]]
"""Fetches a file once for all workers, given its kind and URL."""


class _File(Protocol):
    @property
    def size(self) -> int: ...

    def refusal(self, url: str) -> str: ...


class HostPolicies:
    """Policy files of hosts, fetched with ``load`` and cached: robots.txt, and those that ``web`` asks for."""

    def __init__(self, web: Web, load: Load) -> None:
        self._web = web
        self._robots = PolicyFiles("/robots.txt", partial(RobotsRules.parse, agent=web.agent), partial(load, "robots"))
        parsers: dict[str, tuple[str, Callable[[int, bytes], _File]]] = {
            "tdmrep.json": (PATH, Reservations.parse),
            "ai.txt": ("/ai.txt", partial(AiTxt.parse, agent=web.agent)),
            "trust.txt": ("/trust.txt", TrustTxt.parse),
        }
        self._files: dict[str, PolicyFiles[_File]] = {
            name: PolicyFiles(*parsers[name], partial(load, "policy")) for name in web.rights_files
        }
        self._licenses = PolicyFiles("", Terms.parse, partial(load, "policy"))

    async def robots(self, url: str) -> RobotsRules:
        """Return the rules of the URL's origin; there are none if robots.txt is not to be obeyed. Raises FetchError."""
        return await self._robots.get(origin_of(url)) if self._web.obey_robots else RobotsRules(None)

    async def add_robots(self, url: str, status: int, body: bytes) -> RobotsRules:
        """Parse and cache a robots.txt that was just fetched."""
        return await self._robots.add(url, status, body)

    async def opt_out(self, url: str, robots: RobotsRules) -> str:
        """Return the words by which the host's files withhold ``url`` from AI use; empty if they do not.

        A file that cannot be fetched says nothing, except a licence that robots.txt names.
        """
        words = [robots.opt_out(url)]
        for license in robots.licenses:
            if why := await self._license(license, url):
                words.append(quoted("robots.txt: License", f"{license} ({why})"))
        for name, files in self._files.items():
            try:
                found = (await files.get(origin_of(url))).refusal(url)
            except FetchError:
                continue  # if the host is down, the fetch itself will fail
            words.append(found and quoted(name, found))
        return joined(*words)

    async def _license(self, license: str, url: str) -> str:
        try:
            return (await self._licenses.get(canonical(license, url))).refusal(url)
        except (BadUrlError, FetchError):
            return "not readable"

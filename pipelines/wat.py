"""What a WAT file keeps of a page: Common Crawl's metadata, a JSON document per record, a fifth of the WARC's size.

Of an image it has ``src``, ``alt`` and ``title``, of the page its headers, ``<meta>`` and ``<link>`` tags and base;
nothing of ``srcset``, figures, JSON-LD or the text around an image. Headers that occur once are texts, those that occur
more often are lists of texts. Format: the ``ExtractingParseObserver`` of Common Crawl's ia-web-commons.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import orjson

from pipelines.optout import from_headers, from_metas
from pipelines.page import declared_language
from pipelines.resolve import quick
from pipelines.urls import BadUrlError, canonical

__all__ = ["WatPage"]

_HEADERS = frozenset({"x-robots-tag", "tdm-reservation", "content-language"})
_CARDS = (b"og:image", b"twitter:image", b"OG:", b"Og:", b"TWITTER:", b"Twitter:")


@dataclass
class WatPage:
    """One page. ``url`` is canonical, ``headers`` are those that matter here; ``head`` and ``links`` as in the file."""

    url: str
    headers: list[tuple[str, str]]
    head: dict[str, Any]
    links: list[dict[str, Any]]
    mentions_license: bool = True

    @classmethod
    def parse(cls, record: bytes) -> WatPage | None:
        """The page of a record; None if the record is of something else, such as a request.

        Raises ValueError for what is no such JSON, BadUrlError (one of them) for a page without an address.
        """
        if not cls.is_page(record):
            return None
        document = orjson.loads(record)
        try:
            envelope = document["Envelope"]
            response = envelope["Payload-Metadata"]["HTTP-Response-Metadata"]
            html = response["HTML-Metadata"]
            url = envelope["WARC-Header-Metadata"]["WARC-Target-URI"]
            status = str(response["Response-Message"]["Status"])
            headers, head, links = response.get("Headers", {}), html.get("Head", {}), html.get("Links", [])
        except (KeyError, TypeError, AttributeError):
            raise ValueError("not a record of a page") from None
        if not (
            isinstance(url, str) and isinstance(headers, dict) and isinstance(head, dict) and isinstance(links, list)
        ):
            raise ValueError("not a record of a page")
        if not status.startswith("2"):
            return None
        listed = [(name, text) for name in headers if name.lower() in _HEADERS for text in _texts(headers[name])]
        return cls(quick(url.strip("<>")), listed, head, links, b"icense" in record or b"ICENSE" in record)

    @staticmethod
    def is_page(record: bytes) -> bool:
        return b'"HTML-Metadata"' in record

    @staticmethod
    def may_have_pictures(record: bytes) -> bool:
        """Whether parsing a record may be worth it, at a glance."""
        return b"IMG@" in record or any(mark in record for mark in _CARDS)

    @cached_property
    def base(self) -> str:
        """What relative addresses are relative to."""
        for address in _texts(self.head.get("Base")):
            try:
                return canonical(address, self.url)
            except BadUrlError:
                break
        return self.url

    @cached_property
    def metas(self) -> list[tuple[str, str]]:
        """(name or property in lower case, content) of every ``<meta>`` that has both, in order."""
        found = []
        for meta in _objects(self.head.get("Metas")):
            name, content = meta.get("property") or meta.get("name"), meta.get("content")
            if isinstance(name, str) and isinstance(content, str):
                found.append((name.strip().lower(), content))
        return found

    def directives(self, agent: str) -> frozenset[str]:
        """What the page says of its use, in headers and in ``<meta>`` tags; see :mod:`pipelines.optout`."""
        return from_headers(self.headers, agent) | from_metas(self.metas, agent)

    @cached_property
    def language(self) -> str:
        """The declared language of the page; files made before 2022 have that of the headers only."""
        metas = dict(reversed(self.metas))
        return declared_language(metas.get("html@/lang") or metas.get("html@/xml:lang") or "", self.headers)

    @cached_property
    def license(self) -> str:
        """The address of the licence the page names; empty if it names none."""
        if not self.mentions_license:
            return ""
        for link in [*_objects(self.head.get("Link")), *(link for link in self.links if type(link) is dict)]:
            rel, address = link.get("rel"), link.get("url")
            if isinstance(rel, str) and "license" in rel.lower().split() and isinstance(address, str):
                try:
                    return canonical(address, self.base)
                except BadUrlError:
                    continue
        return ""

    @property
    def images(self) -> list[dict[str, Any]]:
        """``url``, ``alt`` and ``title`` of each image that has a ``src``, in document order."""
        return [link for link in self.links if type(link) is dict and link.get("path") == "IMG@/src"]


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def _objects(value: object) -> list[dict[str, Any]]:
    values = value if isinstance(value, list) else [value]
    return [cast("dict[str, Any]", item) for item in values if isinstance(item, dict)]

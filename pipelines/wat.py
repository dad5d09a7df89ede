"""What a WAT file keeps of a page: Common Crawl's metadata, a JSON document per record, a fifth of the WARC's size.

Of an image it has ``src``, ``alt`` and ``title``, of the page its headers, ``<meta>`` and ``<link>`` tags and base;
nothing of ``srcset``, figures, JSON-LD or the text around an image. Headers that occur once are texts, those that occur
more often are lists of texts. Format: the ``ExtractingParseObserver`` of Common Crawl's ia-web-commons.

A record is decoded straight into the few fields that matter, which takes half the time of decoding all of it. A record
that has something else in their place, which Common Crawl's own never have, is decoded whole, and what fits is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec import DecodeError, Struct, ValidationError, field
from msgspec.json import Decoder, decode

from pipelines.html.page import declared_language
from pipelines.html.resolve import quick
from pipelines.web.urls import BadUrlError, canonical

__all__ = ["Link", "Meta", "WatPage"]

_HEADERS = frozenset({"x-robots-tag", "tdm-reservation", "content-language"})


class Meta(Struct, gc=False):
    """A ``<meta>`` tag."""

    name: str | None = None
    property: str | None = None
    content: str | None = None


class Link(Struct, gc=False):
    """Something a page refers to, by an attribute named ``path``, such as ``IMG@/src``."""

    path: str | None = None
    url: str | None = None
    alt: str | None = None
    title: str | None = None
    rel: str | None = None


class _Head(Struct, gc=False):
    base: str | None = field(default=None, name="Base")
    metas: list[Meta] = field(default_factory=list, name="Metas")
    links: list[Link] = field(default_factory=list, name="Link")


class _Html(Struct, gc=False):
    head: _Head = field(default_factory=_Head, name="Head")
    links: list[Link] = field(default_factory=list, name="Links")


class _Message(Struct, gc=False):
    status: str = field(name="Status")


class _Response(Struct, gc=False):
    message: _Message = field(name="Response-Message")
    html: _Html = field(name="HTML-Metadata")
    headers: dict[str, str | list[str]] = field(default_factory=dict, name="Headers")


class _Payload(Struct, gc=False):
    response: _Response = field(name="HTTP-Response-Metadata")


class _About(Struct, gc=False):
    url: str = field(name="WARC-Target-URI")


class _Envelope(Struct, gc=False):
    payload: _Payload = field(name="Payload-Metadata")
    about: _About = field(name="WARC-Header-Metadata")


class _Document(Struct, gc=False):
    envelope: _Envelope = field(name="Envelope")


_decode = Decoder(_Document).decode


@dataclass(slots=True)
class WatPage:
    """One page. ``url`` is canonical, and so is ``base``, which relative addresses are relative to.

    ``headers`` are those that matter here. ``metas`` is (name or property in lower case, content) of every ``<meta>``
    that has both; ``links`` are those of the head and ``body`` those of the body; all in order.
    """

    url: str
    base: str
    headers: list[tuple[str, str]]
    metas: list[tuple[str, str]]
    links: list[Link]
    body: list[Link]

    @classmethod
    def parse(cls, record: bytes) -> WatPage | None:
        """The page of a record; None if the record is of something else, such as a request.

        Raises ValueError for what is no such JSON, BadUrlError (one of them) for a page without an address.
        """
        if b'"HTML-Metadata"' not in record:
            return None
        try:
            try:
                envelope = _decode(record).envelope
            except ValidationError:
                envelope = _fitting(decode(record))
        except (DecodeError, RecursionError) as error:
            raise ValueError("not JSON") from error
        response, url = envelope.payload.response, quick(envelope.about.url.strip("<>"))
        if not response.message.status.startswith("2"):
            return None
        head = response.html.head
        headers = [
            (name, text)
            for name, value in response.headers.items()
            if name.lower() in _HEADERS
            for text in ([value] if isinstance(value, str) else value)
        ]
        metas = [
            (name.strip().lower(), meta.content)
            for meta in head.metas
            if (name := meta.property or meta.name) and meta.content is not None
        ]
        return cls(url, _base(head.base, url) if head.base else url, headers, metas, head.links, response.html.links)

    @property
    def language(self) -> str:
        """The declared language of the page; files made before 2022 have that of the headers only."""
        return declared_language(self._meta("html@/lang") or self._meta("html@/xml:lang"), self.headers)

    def _meta(self, name: str) -> str:
        return next((content for named, content in self.metas if named == name), "")

    @property
    def license(self) -> str:
        """The address of the licence the page names; empty if it names none."""
        for link in (*self.links, *self.body):
            if (
                (rel := link.rel)
                and "license" in (rel := rel.lower())
                and "license" in rel.split()
                and link.url is not None
            ):
                try:
                    return canonical(link.url, self.base)
                except BadUrlError:
                    continue
        return ""

    @property
    def images(self) -> list[Link]:
        """Each image that has a ``src``, in document order."""
        return [link for link in self.body if link.path == "IMG@/src"]


def _base(address: str, url: str) -> str:
    try:
        return canonical(address, url)
    except BadUrlError:
        return url


_Tag = TypeVar("_Tag", Meta, Link)


def _fitting(document: Any) -> _Envelope:  # noqa: ANN401 - JSON has no tighter type
    """What fits of a record that does not as a whole. Raises ValueError if it is not of a page at all."""
    try:
        envelope = document["Envelope"]
        response = envelope["Payload-Metadata"]["HTTP-Response-Metadata"]
        html = response["HTML-Metadata"]
        url = envelope["WARC-Header-Metadata"]["WARC-Target-URI"]
        status = str(response["Response-Message"]["Status"])
        headers, head, links = response.get("Headers", {}), html.get("Head", {}), html.get("Links", [])
    except (KeyError, TypeError, AttributeError):
        raise ValueError("not a record of a page") from None
    if not (isinstance(url, str) and isinstance(headers, dict) and isinstance(head, dict) and isinstance(links, list)):
        raise ValueError("not a record of a page")
    base = next(iter(_texts(head.get("Base"))), None)
    tags = _Html(_Head(base, _tags(Meta, head.get("Metas")), _tags(Link, head.get("Link"))), _tags(Link, links))
    named: dict[str, str | list[str]] = {name: _texts(value) for name, value in headers.items()}
    return _Envelope(_Payload(_Response(_Message(status), tags, named)), _About(url))


def _tags(kind: type[_Tag], value: object) -> list[_Tag]:
    """The objects among ``value``, or in it, with those of their values that are texts."""
    objects = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
    return [
        kind(**{name: text for name in kind.__struct_fields__ if isinstance(text := item.get(name), str)})
        for item in objects
    ]


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]

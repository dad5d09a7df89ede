"""Parse records of WAT files: Common Crawl's metadata of pages, JSON, a fifth of the WARC's size.

A record has ``src``, ``alt`` and ``title`` of images, and the page's headers, ``<meta>`` and ``<link>`` tags and base;
no ``srcset``, figures, JSON-LD or text around images. Headers that occur once are texts, those that occur more often
lists of texts. Format: the ``ExtractingParseObserver`` of Common Crawl's ia-web-commons.

A record is decoded straight into the few fields needed, in half the time of decoding all of it. Headers and the links
of the head are rarely needed, and decoded only if a relevant name is in their JSON, whose letters are never escaped.
A record of unexpected types, which Common Crawl never writes, is decoded completely, and the valid parts are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, Union

from msgspec import DecodeError, Raw, Struct, ValidationError, defstruct, field
from msgspec.json import Decoder, decode, encode

from pipelines.html.page import declared_language
from pipelines.html.resolve import fast_canonical
from pipelines.web.policy.licenses import license_of_headers
from pipelines.web.urls import BadUrlError, canonical

__all__ = ["Image", "Link", "Meta", "WatPage"]

_RIGHTS = ("x-robots-tag", "tdm-reservation", "content-usage", "content-signal", "x-crawl-opt-out")
_HEADERS = frozenset({*_RIGHTS, "content-language", "link"})
# Nearly all records have a Link header, and nearly none of them is about a licence.
_RELEVANT = tuple(name.encode() for name in (*_RIGHTS, "content-language", "license"))


class Meta(Struct, gc=False):
    """A ``<meta>`` tag."""

    name: str | None = None
    property: str | None = None
    content: str | None = None


_IMAGE = "IMG@/src"


class Image(Struct, gc=False, tag_field="path", tag=_IMAGE):
    """An image."""

    url: str | None = None
    alt: str | None = None
    title: str | None = None


class Link(Struct, gc=False):
    """A link or an image. ``path`` names tag and attribute, such as ``IMG@/src``."""

    path: str | None = None
    url: str | None = None
    alt: str | None = None
    title: str | None = None
    rel: str | None = None
    type: str | None = None


# Most links are no images, and of these nothing but ``rel`` is decoded. The paths that Common Crawl writes; pages with
# others, such as ``LI@/data-href``, are decoded with all fields.
_OTHERS = (
    "A@/href AREA@/href FORM@/action IFRAME@/src STYLE/#text IMG@/longdesc FRAME@/src EMBED@/src AUDIO@/src TRACK@/src "
    "SOURCE@/src VIDEO@/src VIDEO@/poster INPUT@/src INPUT@/formaction INPUT@/onclick DIV@/onclick BUTTON@/formaction "
    "OBJECT@/data OBJECT@/codebase OBJECT@/cdata APPLET@/codebase APPLET@/cdata MENUITEM@/icon Q@/cite "
    "BLOCKQUOTE@/cite DEL@/cite INS@/cite A@/data-href DIV@/data-href BODY@/background TABLE@/background TD@/background"
)
_KINDS = [
    defstruct("Other", [("rel", str | None, None)], gc=False, tag_field="path", tag=path) for path in _OTHERS.split()
]
_Item = TypeVar("_Item")


_NOTHING = Raw(b"null")


class _Head(Struct, gc=False):
    base: str | None = field(default=None, name="Base")
    metas: list[Meta] = field(default_factory=list, name="Metas")
    links: Raw = field(default=_NOTHING, name="Link")


class _Html(Struct, Generic[_Item], gc=False):
    head: _Head = field(default_factory=_Head, name="Head")
    links: list[_Item] = field(default_factory=list, name="Links")


class _Message(Struct, gc=False):
    status: str = field(name="Status")


class _Response(Struct, Generic[_Item], gc=False):
    message: _Message = field(name="Response-Message")
    html: _Html[_Item] = field(name="HTML-Metadata")
    headers: Raw = field(default=_NOTHING, name="Headers")


class _Payload(Struct, Generic[_Item], gc=False):
    response: _Response[_Item] = field(name="HTTP-Response-Metadata")


class _WarcHeader(Struct, gc=False):
    url: str = field(name="WARC-Target-URI")


class _Envelope(Struct, Generic[_Item], gc=False):
    payload: _Payload[_Item] = field(name="Payload-Metadata")
    warc_header: _WarcHeader = field(name="WARC-Header-Metadata")


class _Document(Struct, Generic[_Item], gc=False):
    envelope: _Envelope[_Item] = field(name="Envelope")


_decode = Decoder(_Document[Union[(Image, *_KINDS)]]).decode  # type: ignore[valid-type]
_decode_links = Decoder(_Document[Link]).decode


@dataclass(slots=True)
class WatPage:
    """A page. ``url`` and ``base``, the base of relative URLs, are canonical.

    ``headers``: those about opt-outs and language. ``metas``: (name or property in lower case, content) of every
    ``<meta>`` that has both; ``images``: those with a ``src``; ``related``: links that may name a licence; in order.
    """

    url: str
    base: str
    headers: list[tuple[str, str]]
    metas: list[tuple[str, str]]
    images: list[Image]
    related: list[Link]

    @classmethod
    def parse(cls, record: bytes) -> WatPage | None:
        """Parse a record; None if it is not of a page, but of a request, for example.

        Raises ValueError for invalid JSON, and BadUrlError (a ValueError) for a page without a valid URL.
        """
        if b'"HTML-Metadata"' not in record:
            return None
        try:
            envelope, images, related = _decoded(record)
        except (DecodeError, RecursionError) as error:
            raise ValueError("not JSON") from error
        response, url = envelope.payload.response, fast_canonical(envelope.warc_header.url.strip("<>"))
        if not response.message.status.startswith("2"):
            return None
        head = response.html.head
        metas = [
            (name.strip().lower(), meta.content)
            for meta in head.metas
            if (name := meta.property or meta.name) and meta.content is not None
        ]
        base = _base(head.base, url) if head.base else url
        if b"license" in bytes(head.links).lower():
            related = _tags(Link, decode(head.links)) + related
        return cls(url, base, _headers(response.headers), metas, images, related)

    @property
    def language(self) -> str:
        """Declared language of the page; files made before 2022 have only that of the headers."""
        return declared_language(self._meta("html@/lang") or self._meta("html@/xml:lang"), self.headers)

    def _meta(self, name: str) -> str:
        return next((content for named, content in self.metas if named == name), "")

    @property
    def license(self) -> str:
        """URL of the page's licence; empty if none."""
        return self._license("") or license_of_headers(self.headers, self.url)

    @property
    def rsl(self) -> str:
        """URL of the page's RSL licence; empty if none."""
        return self._license("application/rsl+xml")

    def _license(self, media_type: str) -> str:
        for link in self.related:
            if link.rel and "license" in link.rel.lower().split() and link.url is not None:
                if media_type and (link.type or "").strip().lower() != media_type:
                    continue
                try:
                    return canonical(link.url, self.base)
                except BadUrlError:
                    continue
        return ""


def _decoded(record: bytes) -> tuple[_Envelope[Any], list[Image], list[Link]]:
    """Return a record with its images and those of its links that may name a licence."""
    try:
        envelope: _Envelope[Any] = _decode(record).envelope
    except ValidationError:  # other paths or types
        pass
    else:
        images = []
        for link in envelope.payload.response.html.links:
            if type(link) is Image:
                images.append(link)
            elif link.rel and "license" in link.rel.lower():
                break
        else:
            return envelope, images, []
    try:
        envelope = _decode_links(record).envelope
    except ValidationError:
        envelope = _lenient(decode(record))
    links: list[Link] = envelope.payload.response.html.links
    related = [link for link in links if link.path != _IMAGE and link.rel and "license" in link.rel.lower()]
    return envelope, [Image(link.url, link.alt, link.title) for link in links if link.path == _IMAGE], related


def _headers(json: Raw) -> list[tuple[str, str]]:
    written = bytes(json).lower()
    if not any(map(written.__contains__, _RELEVANT)):
        return []
    headers = decode(json)
    listed = headers.items() if isinstance(headers, dict) else ()
    return [(name, text) for name, value in listed if name.lower() in _HEADERS for text in _texts(value)]


def _base(href: str, url: str) -> str:
    try:
        return canonical(href, url)
    except BadUrlError:
        return url


_Tag = TypeVar("_Tag", Meta, Link)


def _lenient(document: Any) -> _Envelope[Link]:  # noqa: ANN401 - JSON has no tighter type
    """Convert the valid parts of a record of unexpected types. Raises ValueError if it is not of a page."""
    try:
        envelope = document["Envelope"]
        response = envelope["Payload-Metadata"]["HTTP-Response-Metadata"]
        html = response["HTML-Metadata"]
        url = envelope["WARC-Header-Metadata"]["WARC-Target-URI"]
        status = str(response["Response-Message"]["Status"])
        headers, head, links = response.get("Headers"), html.get("Head", {}), html.get("Links", [])
    except (KeyError, TypeError, AttributeError):
        raise ValueError("not a record of a page") from None
    if not (isinstance(url, str) and isinstance(head, dict) and isinstance(links, list)):
        raise ValueError("not a record of a page")
    base = next(iter(_texts(head.get("Base"))), None)
    tags = _Html(_Head(base, _tags(Meta, head.get("Metas")), Raw(encode(head.get("Link")))), _tags(Link, links))
    return _Envelope(_Payload(_Response(_Message(status), tags, Raw(encode(headers)))), _WarcHeader(url))


def _tags(kind: type[_Tag], value: object) -> list[_Tag]:
    """Return the objects in ``value``, a list or one of them, with those of their values that are texts."""
    objects = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
    return [
        kind(**{name: text for name in kind.__struct_fields__ if isinstance(text := item.get(name), str)})
        for item in objects
    ]


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]

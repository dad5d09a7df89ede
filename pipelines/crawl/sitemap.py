"""Sitemaps (sitemaps.org) as XML, text, RSS or Atom, gzipped or not.

Input is not trusted: expat reads XML as a stream, without a tree; a document type declaration ends the reading, so
there are no entities to expand; bytes, URLs, nesting and files are limited. Of malformed XML the part before the error
is used. ``lastmod`` and ``priority`` do not predict a page's value and are not read.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple
from xml.parsers import expat

from infra.schema import Drop
from pipelines.web import FetchError
from pipelines.web.coding import CodingError, OversizeError, decoder
from pipelines.web.http_client import MAX_SITEMAP_BYTES
from pipelines.web.urls import MAX_LENGTH, BadUrlError, canonical

__all__ = ["Read", "Sitemap", "SitemapError", "parse", "walk"]

MAX_URLS = 50_000  # in one file: the protocol's limit
_MAX_DEPTH = 3  # of indexes within indexes; the protocol allows one
_MAX_NESTING = 32  # of elements; a sitemap has three or four
_AT_ONCE = 8  # sitemaps fetched concurrently


class SitemapError(ValueError):
    """Not a sitemap; the message says why."""


class Sitemap(NamedTuple):
    """``urls`` of pages, and further ``sitemaps``, as written. ``broken``: the error that ended the reading early."""

    urls: list[str]
    sitemaps: list[str]
    broken: str = ""


def parse(body: bytes) -> Sitemap:
    """Parse a sitemap in any of the formats. Raises SitemapError."""
    if body.startswith(b"\x1f\x8b"):
        body = _unzip(body)
    body = body.removeprefix(codecs.BOM_UTF8)
    start = body[:1024].lstrip()
    if start.startswith(b"<") or body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _Reader().read(body)
    return _text(body)


def _unzip(body: bytes) -> bytes:
    decode = decoder("gzip")
    try:
        return decode.feed(body, MAX_SITEMAP_BYTES)
    except OversizeError:
        raise SitemapError(f"more than {MAX_SITEMAP_BYTES} bytes unpacked") from None
    except CodingError as error:
        raise SitemapError(f"gzip: {error}") from None


def _text(body: bytes) -> Sitemap:
    """Parse a list of URLs, one per line. Anything else that is not XML is not a sitemap."""
    lines = [line.strip() for line in body.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line]
    if lines and not lines[0].startswith(("http://", "https://")):
        raise SitemapError("neither XML nor a list of URLs")
    return Sitemap(lines[:MAX_URLS], [], "too many URLs" if len(lines) > MAX_URLS else "")


class _EndError(Exception):
    """Ends the reading early; what was read so far is used."""


class _Reader:
    """Collects the text of ``loc`` in ``url`` and ``sitemap``, of ``link`` in an RSS ``item``, and ``link/@href`` in an
    Atom ``entry``.

    Names are compared without namespace prefix: some sites use one, and many forget to declare it.
    """

    def __init__(self) -> None:
        self._urls: list[str] = []
        self._sitemaps: list[str] = []
        self._path: list[str] = []
        self._text: list[str] | None = None

    def read(self, body: bytes) -> Sitemap:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        broken = ""
        try:
            parser.Parse(body, True)
        except (expat.ExpatError, LookupError, ValueError) as error:  # the latter of unknown encodings
            broken = "malformed XML" if isinstance(error, expat.ExpatError) else "unknown encoding"
        except _EndError as error:
            broken = str(error)
        if broken and not self._urls and not self._sitemaps:
            raise SitemapError(broken)
        return Sitemap(self._urls, self._sitemaps, broken)

    def _doctype(self, *_: object) -> None:
        raise _EndError("a document type declaration")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2].lower()
        if not self._path and name not in ("urlset", "sitemapindex", "rss", "rdf", "feed"):
            raise _EndError("another kind of XML")
        parent = self._path[-1] if self._path else ""
        self._path.append(name)
        if len(self._path) > _MAX_NESTING:
            raise _EndError("nested too deep")
        if (name == "loc" and parent in ("url", "sitemap")) or (name == "link" and parent == "item"):
            self._text = []
        elif name == "link" and parent == "entry" and attributes.get("rel", "alternate") == "alternate":
            self._add(attributes.get("href", ""), self._urls)

    def _characters(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data[: MAX_LENGTH + 1])

    def _end(self, _: str) -> None:
        self._path.pop()
        if self._text is not None:
            self._add("".join(self._text), self._sitemaps if self._path[-1] == "sitemap" else self._urls)
            self._text = None

    def _add(self, text: str, to: list[str]) -> None:
        if text := text.strip():
            to.append(text)
        if len(to) >= MAX_URLS:
            raise _EndError("too many URLs")


class Read(NamedTuple):
    """Result of one sitemap file: the canonical ``urls`` of its pages, or the ``reason`` it could not be read."""

    url: str
    urls: list[str]
    reason: Drop | None = None
    detail: str = ""
    refused: int = 0  # entries that are no URLs


async def walk(
    start: str, get: Callable[[str], Awaitable[bytes]], max_files: int, max_urls: int
) -> AsyncIterator[Read]:
    """Read the sitemap at ``start`` and those it links to, level by level, each once, in order.

    ``get`` returns the body at a URL, or raises FetchError.
    """
    level, known, urls = [start], {start}, 0
    for _ in range(1 + _MAX_DEPTH):
        following: list[str] = []
        for first in range(0, len(level), _AT_ONCE):
            for read, further in await asyncio.gather(*(_read(one, get) for one in level[first : first + _AT_ONCE])):
                following += [one for one in further if not (one in known or known.add(one))]  # type: ignore[func-returns-value]
                urls += len(read.urls)
                if urls > max_urls:
                    kept = read.urls[: max_urls - urls + len(read.urls)]
                    yield read._replace(urls=kept, detail=f"more than {max_urls} URLs")
                    return
                yield read
        level = following[: max(0, max_files - len(known) + len(following))]
        for one in following[len(level) :]:
            yield Read(one, [], Drop.BUDGET, f"more than {max_files} sitemaps")
    for one in level:
        yield Read(one, [], Drop.BUDGET, f"indexes nested more than {_MAX_DEPTH} deep")


async def _read(url: str, get: Callable[[str], Awaitable[bytes]]) -> tuple[Read, list[str]]:
    try:
        found = await asyncio.to_thread(parse, await get(url))
    except FetchError as error:
        return Read(url, [], error.reason, error.detail), []
    except SitemapError as error:
        return Read(url, [], Drop.NOT_SITEMAP, str(error)), []
    urls, refused = _canonical(found.urls, url)
    further, more = _canonical(found.sitemaps, url)
    return Read(url, urls, None, found.broken, refused + more), further


def _canonical(found: list[str], base: str) -> tuple[list[str], int]:
    urls = []
    for url in found:
        try:
            urls.append(canonical(url, base))
        except BadUrlError:
            continue
    return list(dict.fromkeys(urls)), len(found) - len(urls)

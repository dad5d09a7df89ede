"""Pages kept as the web's own archive format (WARC 1.1, ISO 28500), one gzip member per record.

Bodies are stored decoded, as Common Crawl stores them: the headers that spoke of the transfer keep their values under
an ``X-Crawl-`` name and ``Content-Length`` tells the stored length.
"""

from __future__ import annotations

import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import BinaryIO
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

__all__ = ["Page", "Reader", "Writer"]

_TRANSFER = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class Writer:
    """Writes responses, each with the request that led to it. Bytes depend on the arguments only."""

    def __init__(self, sink: BinaryIO, filename: str, date: str, info: dict[str, str]) -> None:
        self._warc = WARCWriter(sink, gzip=True, warc_version="1.1")
        body = "".join(f"{name}: {value}\r\n" for name, value in info.items()).encode()
        self._write("warcinfo", filename, date, body, {"WARC-Filename": filename})

    def page(
        self, url: str, date: str, status: int, headers: list[tuple[str, str]], body: bytes, sent: list[tuple[str, str]]
    ) -> None:
        """One exchange: ``headers`` as received, ``sent`` the headers of our request."""
        stored = [(f"X-Crawl-{name}" if name.lower() in _TRANSFER else name, value) for name, value in headers]
        stored.append(("Content-Length", str(len(body))))
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
        answer = StatusAndHeaders(f"{status} {phrase}", [_clean(item) for item in stored], protocol="HTTP/1.1")
        parts = urlsplit(url)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        asked = StatusAndHeaders(
            f"GET {target} HTTP/1.1", [("Host", parts.netloc), *map(_clean, sent)], is_http_request=True
        )
        response = self._write("response", url, date, body, {}, answer)
        self._write("request", url, date, b"", {"WARC-Concurrent-To": response}, asked)

    def _write(
        self,
        kind: str,
        url: str,
        date: str,
        body: bytes,
        extra: dict[str, str],
        http: StatusAndHeaders | None = None,
    ) -> str:
        digest = hashlib.sha256(body).hexdigest()
        identity = f"<urn:uuid:{uuid5(NAMESPACE_URL, f'{kind} {url} {date} {digest}')}>"
        record = self._warc.create_warc_record(
            "" if kind == "warcinfo" else url,
            kind,
            payload=io.BytesIO(body),
            length=len(body),
            http_headers=http,
            warc_headers_dict={"WARC-Record-ID": identity, "WARC-Date": date, **extra},
        )
        self._warc.write_record(record)
        return identity


def _clean(header: tuple[str, str]) -> tuple[str, str]:
    # A header is one line; control characters would let a server write records of its own.
    name, value = (re.sub(r"[\x00-\x1f\x7f]+", " ", text) for text in header)
    return name, value


@dataclass(frozen=True, slots=True)
class Page:
    """A stored HTML answer."""

    url: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def content_type(self) -> str:
        return next((value for name, value in self.headers if name.lower() == "content-type"), "")


class Reader:
    """The HTML pages of a WARC file, ours or Common Crawl's, gzipped or plain. ``file`` must seek.

    A damaged record costs itself alone: reading goes on at the next one. ``damaged`` counts them, ``skipped`` the
    responses that are no HTML, no success or larger than ``max_bytes``.
    """

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file, self._max_bytes = file, max_bytes
        self.damaged = self.skipped = 0

    def __iter__(self) -> Iterator[Page]:
        start: int | None = 0
        counted = False
        while start is not None:
            last = start
            read_some = False
            self._file.seek(start)
            try:
                # Offsets are relative to where the stream stood when it was handed over.
                for record in ArchiveIterator(
                    _Window(self._file, start), record_types=WarcRecordType.response, auto_decode="all"
                ):
                    last = start + record.stream_pos
                    read_some = True
                    page = self._page(record)
                    if page is not None:
                        yield page
                return
            except (OSError, ValueError):
                # A damaged record is met behind the last good one and, if its start looks sound, once more there.
                self.damaged += read_some or not counted
                counted = read_some
            start = _next_record(self._file, last + 1)

    def _page(self, record: WarcRecord) -> Page | None:
        headers = record.http_headers if record.is_http and record.is_http_parsed else None
        kind = (record.http_content_type or "").lower() if headers is not None else ""
        if (
            headers is None
            or not 200 <= (headers.status_code or 0) < 300
            or kind not in ("text/html", "application/xhtml+xml", "")
            or record.content_length > self._max_bytes
        ):
            self.skipped += 1
            return None
        body = record.reader.read(self._max_bytes + 1)
        url = record.headers.get("WARC-Target-URI") or ""
        if len(body) > self._max_bytes or not url:
            self.skipped += 1
            return None
        return Page(url.strip("<>"), list(headers.items()), body)


class _Window(io.RawIOBase):
    """``file`` from ``start`` on, with positions counted from there."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file, self._start = file, start

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)

    def tell(self) -> int:
        return self._file.tell() - self._start


_MEMBER = re.compile(rb"\x1f\x8b\x08|\r\n\r\nWARC/1\.")
_CHUNK = 1 << 20


def _next_record(file: BinaryIO, position: int) -> int | None:
    """Where at or behind ``position`` the next record seems to begin."""
    while True:
        file.seek(position)
        data = file.read(_CHUNK)
        for hit in _MEMBER.finditer(data):
            at = position + hit.start()
            if hit[0].startswith(b"\r\n"):
                return at + 4
            file.seek(at)
            try:
                if zlib.decompressobj(wbits=31).decompress(file.read(4096), 5) == b"WARC/":
                    return at
            except zlib.error:
                continue
        if len(data) < _CHUNK:
            return None
        position += _CHUNK - 16  # what spans two chunks is whole in one of them

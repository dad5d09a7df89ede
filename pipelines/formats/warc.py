"""Write and read WARC files (WARC 1.1, ISO 28500), one gzip member per record.

Bodies are stored decoded, as Common Crawl stores them: headers about the transfer keep their values under an
``X-Crawl-`` name, and ``Content-Length`` is the stored length.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import BinaryIO, cast
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

from fastwarc.stream_io import ChunkedReader
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines.web.coding import CodingError, OversizeError, decoder

__all__ = ["Page", "Reader", "Writer"]

_TRANSFER = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class Writer:
    """Writes responses with their requests. Bytes depend on the arguments only."""

    def __init__(self, sink: BinaryIO, filename: str, date: str, info: dict[str, str]) -> None:
        self._warc = WARCWriter(sink, gzip=True, warc_version="1.1")
        body = "".join(f"{name}: {value}\r\n" for name, value in info.items()).encode()
        self._write("warcinfo", filename, date, body, {"WARC-Filename": filename})

    def page(
        self, url: str, date: str, status: int, headers: list[tuple[str, str]], body: bytes, sent: list[tuple[str, str]]
    ) -> None:
        """Write one exchange: ``headers`` as received, ``sent`` the headers of our request."""
        stored = [(f"X-Crawl-{name}" if name.lower() in _TRANSFER else name, value) for name, value in headers]
        stored.append(("Content-Length", str(len(body))))
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
        status_line = StatusAndHeaders(f"{status} {phrase}", [_clean(item) for item in stored], protocol="HTTP/1.1")
        parts = urlsplit(url)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        request_line = StatusAndHeaders(
            f"GET {target} HTTP/1.1", [("Host", parts.netloc), *map(_clean, sent)], is_http_request=True
        )
        response = self._write("response", url, date, body, {}, status_line)
        self._write("request", url, date, b"", {"WARC-Concurrent-To": response}, request_line)

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
    # A header is one line; control characters would let a server inject records.
    name, value = (re.sub(r"[\x00-\x1f\x7f]+", " ", text) for text in header)
    return name, value


@dataclass(frozen=True, slots=True)
class Page:
    """A stored HTML response."""

    url: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def content_type(self) -> str:
        return next((value for name, value in self.headers if name.lower() == "content-type"), "")


class Reader:
    """Iterates over the HTML pages of a WARC file, or the JSON of a WAT file's records; ``file`` must be seekable.

    A damaged record affects no other: reading resumes at the next one. ``records`` counts those read, ``damaged`` the
    damaged ones, including a truncated end, and ``skipped`` the responses that are not HTML, not successful or larger
    than ``max_bytes``.
    """

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file, self._max_bytes = file, max_bytes
        self.records = self.damaged = self.skipped = 0

    def __iter__(self) -> Iterator[Page | bytes]:
        start: int | None = 0
        counted = False  # whether damage at ``start`` was already counted, when reading arrived there
        while start is not None:
            last = start
            read_some = False
            self._file.seek(start)
            try:
                # The parser's offsets are relative to the position at which it got the stream.
                window = cast("BinaryIO", _Window(self._file, start))
                for record in ArchiveIterator(window, parse_http=False):
                    last = start + record.stream_pos
                    found = self._read(record)
                    read_some = True
                    self.records += 1
                    if found is not None:
                        yield found
                if _ends_well(self._file, last):
                    return
            except _LongRecordError:
                counted = False
            except _DamagedRecordError:
                self.damaged += read_some or not counted
                counted = False
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # a disk error, not a damaged archive
                # A damaged record is met after the last good one and, if its start looks valid, once more there.
                self.damaged += read_some or not counted
                counted = read_some
            else:
                self.damaged += read_some or not counted
                counted = read_some
            start = _next_record(self._file, last + 1)

    @property
    def is_archive(self) -> bool:
        """True if the file begins like a WARC or WAT file, or is empty."""
        self._file.seek(0)
        start = self._file.read(4096)
        return not start or _begins_record(start)

    def _read(self, record: WarcRecord) -> Page | bytes | None:
        """Return the page or JSON of a record, None if it is skipped. Raises _DamagedRecordError."""
        try:
            length = record.content_length
            if not length and record.headers.get("Content-Length") is None:
                raise _DamagedRecordError
            kind = record.record_type
            if kind == _RESPONSE:
                return self._page(record)
            if kind != _METADATA or length > self._max_bytes:
                self.skipped += kind == _METADATA
                self._skip(record)
                return None
            body = _whole(record, length)
            return body if body.startswith(b"{") else None  # others are metadata of the crawler
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise _DamagedRecordError from error

    def _skip(self, record: WarcRecord) -> None:
        """Skip the rest of a record, checking its length: a wrong one would make the parser swallow later records."""
        if record.content_length > self._max_bytes:
            raise _LongRecordError
        if record.consume() != record.content_length:
            raise _DamagedRecordError

    def _page(self, record: WarcRecord) -> Page | None:
        if record.is_http:
            record.parse_http()
        headers = record.http_headers if record.is_http and record.is_http_parsed else None
        kind = (record.http_content_type or "").lower() if headers is not None else ""
        url = record.headers.get("WARC-Target-URI") or ""
        if (
            headers is None
            or not url
            or not 200 <= (headers.status_code or 0) < 300
            or kind not in ("text/html", "application/xhtml+xml", "")
            or record.content_length > self._max_bytes
        ):
            self.skipped += 1
            self._skip(record)
            return None
        listed = list(headers.items())
        try:
            body = _decoded(_whole(record, record.content_length), listed, self._max_bytes)
        except OversizeError:
            self.skipped += 1
            return None
        return Page(url.strip("<>"), listed, body)


_RESPONSE, _METADATA = WarcRecordType.response, WarcRecordType.metadata


class _LongRecordError(Exception):
    """The record is too long to be read; search for the next one."""


class _DamagedRecordError(ValueError):
    """The record cannot be read, but later ones may."""


def _whole(record: WarcRecord, length: int) -> bytes:
    """Read the rest of a record's block. Raises _DamagedRecordError if it is shorter than ``length``, as declared."""
    body = record.reader.read(length) if length else b""
    if len(body) != length:
        raise _DamagedRecordError
    return body


def _decoded(body: bytes, headers: list[tuple[str, str]], max_bytes: int) -> bytes:
    """Decode transfer and content codings of a body. Raises OversizeError.

    Archives may store bodies as received, or decoded under the original headers; a body that does not decode is taken
    as decoded.
    """
    codings = {name.lower(): value for name, value in headers if name.lower() in _TRANSFER}
    if "chunked" in codings.get("transfer-encoding", "").lower():
        with contextlib.suppress(OSError, ValueError):
            body = ChunkedReader(io.BytesIO(body)).read(max_bytes + 1) or body
        if len(body) > max_bytes:
            raise OversizeError(body[:max_bytes])
    if coding := codings.get("content-encoding"):
        with contextlib.suppress(CodingError):
            return decoder(coding).feed(body, max_bytes) if body else body
    return body


class _Window(io.RawIOBase):
    """View of ``file`` from ``start`` on."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file, self._start = file, start

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)

    def tell(self) -> int:
        return self._file.tell() - self._start


_MEMBER = re.compile(rb"\x1f\x8b\x08|\r\n\r\nWARC/1\.")
_CHUNK = 1 << 20


def _next_record(file: BinaryIO, position: int) -> int | None:
    """Return where, from ``position`` on, the next record seems to begin; None if there is none."""
    while True:
        file.seek(position)
        data = file.read(_CHUNK)
        for hit in _MEMBER.finditer(data):
            at = position + hit.start()
            if hit[0].startswith(b"\r\n"):
                return at + 4
            file.seek(at)
            if _begins_record(file.read(4096)):
                return at
        if len(data) < _CHUNK:
            return None
        position += _CHUNK - 16  # overlap, so that a match across two chunks is found


def _begins_record(data: bytes) -> bool:
    """Return True if ``data`` begins like a record, compressed or not."""
    if data.startswith(_ZSTD):
        return True
    try:
        start = zlib.decompressobj(wbits=31).decompress(data, 5) if data.startswith(_GZIP) else data
    except zlib.error:
        return False
    return start.startswith(b"WARC/")


_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_LENGTH = re.compile(rb"\r?\ncontent-length[ \t]*:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_MAX_HEADER = 1 << 16


def _ends_well(file: BinaryIO, position: int) -> bool:
    """Return True if the file, from the record at ``position`` on, ends with a complete record.

    The parser does not report a truncated one.
    """
    file.seek(position)
    start = file.read(_MAX_HEADER)
    if start.startswith(_GZIP):
        return _members_end_well(file, start)
    while start.startswith(b"WARC/"):
        header = _HEADER_END.search(start)
        length = _LENGTH.search(start, 0, header.end()) if header else None
        if header is None or length is None:
            return False
        position += header.end() + int(length[1])
        end = file.seek(0, io.SEEK_END)
        if position > end:
            return False
        file.seek(position)
        start = file.read(_MAX_HEADER)
        between = len(start) - len(start.lstrip(b"\r\n"))
        position += between
        start = start[between:]
    return True


def _members_end_well(file: BinaryIO, data: bytes) -> bool:
    stream = zlib.decompressobj(wbits=31)
    while data:
        try:
            stream.decompress(data, _CHUNK)
        except zlib.error:
            return False
        if stream.eof:
            data = stream.unused_data or file.read(_CHUNK)
            if not data.startswith(_GZIP[: len(data)]):
                return True  # padding
            if data:
                stream = zlib.decompressobj(wbits=31)
        else:
            data = stream.unconsumed_tail or file.read(_CHUNK)
    return stream.eof

"""Write WARC files (WARC 1.1, ISO 28500), one gzip member per record; read the pages of WARC, ARC and WAT files.

Ours hold bodies decoded, as Common Crawl stores them: headers about the transfer keep their values under an
``X-Crawl-`` name, and ``Content-Length`` is the stored length.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import BinaryIO
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from infra.schema import Drop
from pipelines.formats.members import begins_record, is_empty
from pipelines.formats.records import Record, Records
from pipelines.formats.stored_http import Response, body_of, parse, text_of
from pipelines.html.media import content_type, is_html
from pipelines.web.coding import CodingError, OversizeError

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
    """A header as one line of ASCII; with control characters a server could inject records.

    Bytes beyond ASCII are percent-encoded, whatever their charset. warcio does so too, but for some headers only.
    """
    name, value = (re.sub(r"[\x00-\x1f\x7f]+", " ", text) for text in header)
    if not value.isascii():
        value = "".join(chr(byte) if byte < 128 else f"%{byte:02X}" for byte in value.encode(errors="surrogateescape"))
    return name, value


@dataclass(frozen=True, slots=True)
class Page:
    """A stored HTML response."""

    url: str
    headers: list[tuple[str, str]]
    body: bytes

    def __len__(self) -> int:
        return len(self.body)

    @property
    def content_type(self) -> str:
        return content_type(self.headers)


class Reader:
    """Iterates over the HTML pages of a seekable WARC or ARC ``file``, or the JSON of a WAT file's records.

    A damaged record affects no other. ``damaged`` counts those, including a cut end, and ``passed`` the other records
    that give no page, by reason.
    """

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file, self._max_bytes = file, max_bytes
        self._all = Records(file, max_bytes)
        self.passed: Counter[str] = Counter()
        self.records = 0  # read whole

    @property
    def damaged(self) -> int:
        return self._all.damaged

    @property
    def is_archive(self) -> bool:
        """True if the file begins like an archive, or is empty."""
        self._file.seek(0)
        start = self._file.read(1 << 16)
        return is_empty(start) or begins_record(start)

    def __iter__(self) -> Iterator[Page | bytes]:
        for record in self._all:
            self.records += 1
            kind, _, block = record
            if kind == b"metadata":
                if block is None:
                    self.passed[Drop.TOO_LARGE] += 1
                elif block.startswith(b"{"):
                    yield block
                else:  # the crawler's notes
                    self.passed[OTHER_KIND] += 1
            elif kind in _RESPONSES:
                found = self._page(record)
                if isinstance(found, Page):
                    yield found
                else:
                    self.passed[found] += 1
            else:
                self.passed[OTHER_KIND] += 1

    def _page(self, record: Record) -> Page | str:
        """Return the page in a record, or the reason why there is none."""
        if record.block is None:
            return Drop.TOO_LARGE
        url = text_of(record.url)
        response = parse(record.block) if record.kind == b"response" else None
        if response is None:  # the content itself, without HTTP: "resource" records, and some writers' responses
            kind = text_of(record.content_type)
            if kind.lower().startswith("application/http"):
                kind = ""
            response = Response(200, [("Content-Type", kind)] if kind else [], record.block)
        if not 200 <= response.status < 300:
            return Drop.HTTP_ERROR
        try:
            body = body_of(response, self._max_bytes)
        except OversizeError:
            return Drop.TOO_LARGE
        except CodingError:
            return UNREADABLE
        if not url or not is_html(content_type(response.headers), body):
            return Drop.NOT_HTML
        return Page(url, response.headers, body)


_RESPONSES = frozenset({b"response", b"resource"})

OTHER_KIND = "other_kind"
"""Reason to pass over a record: its kind has no pages (warcinfo, request, revisit, the text of a WET file)."""

UNREADABLE = "content_coding"
"""Reason to pass over a response: its body is in a coding that is unknown, or damaged from the start."""

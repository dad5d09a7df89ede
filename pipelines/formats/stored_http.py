"""HTTP responses as archives store them, read as leniently as a browser reads what a server sends.

Archives keep responses as received, or with bodies decoded under the headers as received, so a coding that a header
names need not be there.
"""

from __future__ import annotations

import io
import re
from typing import NamedTuple

from fastwarc.stream_io import ZstdReader

from pipelines.web.coding import CodingError, OversizeError, decoder

__all__ = ["Response", "body_of", "parse", "text_of"]

_STATUS = re.compile(rb"[\r\n\t ]*HTTP(?:/\d+(?:\.\d+)?)?[ \t]+(\d{3})(?!\d)", re.IGNORECASE)
_HEAD_END = re.compile(rb"\n\r?\n")
_MAX_HEAD = 1 << 18  # bytes
_FOLD = re.compile(rb"\r?\n[ \t]+")
_CHUNK = re.compile(rb"[\r\n]*[ \t]*([0-9a-fA-F]{1,16})[ \t]*(?:;[^\r\n]*)?\r?\n")
_MAX_CODINGS = 5
_PIECE = 1 << 16
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")  # WHATWG MIME Sniffing, "binary data byte"
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?[\t\n\x0c\r ]*<[a-z!?]", re.IGNORECASE)
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Response(NamedTuple):
    """A response as stored; ``body`` may be in its codings."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def parse(block: bytes) -> Response | None:
    """Parse an HTTP message; None if it is none. Interim responses (1xx) before the final one are passed over."""
    while status := _STATUS.match(block):
        end = _HEAD_END.search(block, status.end(), _MAX_HEAD)
        head, body = (block[: end.start()], block[end.end() :]) if end else (block, b"")
        lines = _FOLD.sub(b" ", head[status.end() :]).split(b"\n")[1:]
        headers = [(name.strip(), value.strip()) for name, _, value in map(_at_colon, map(text_of, lines)) if name]
        if status[1].startswith(b"1") and _STATUS.match(body):
            block = body
            continue
        return Response(int(status[1]), headers, body)
    return None


def _at_colon(line: str) -> tuple[str, str, str]:
    name, colon, value = line.partition(":")
    return (name, colon, value) if colon else ("", "", "")


def text_of(raw: bytes) -> str:
    """Return the text of a header: UTF-8, or else Latin-1, as HTTP had it."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def body_of(response: Response, max_bytes: int) -> bytes:
    """Return the decoded body. Raises OversizeError for more than ``max_bytes``, CodingError if it is not readable."""
    transfer, content = _codings(response, "transfer-encoding"), _codings(response, "content-encoding")
    body = response.body
    if "chunked" in transfer:
        body = _without_chunks(body)
    for coding in reversed([*content, *(coding for coding in transfer if coding != "chunked")]):
        body = _decoded(body, coding, max_bytes)
    if len(body) > max_bytes:
        raise OversizeError(body[:max_bytes])
    if content and _is_binary(body):
        raise CodingError(f"content coding {', '.join(content)[:40]!r} cannot be decoded")
    return body


def _is_binary(body: bytes) -> bool:
    return _BINARY.search(body, 0, 1445) is not None and not body.startswith(_UTF_16)


def _codings(response: Response, header: str) -> list[str]:
    """The codings that all headers of that name list, in the order they were applied."""
    listed = ",".join(value for name, value in response.headers if name.lower() == header).lower()
    return [coding for part in listed.split(",") if (coding := part.strip(" \t\"'"))][:_MAX_CODINGS]


def _decoded(body: bytes, coding: str, max_bytes: int) -> bytes:
    """Return ``body`` without this coding, up to where it is damaged; as it is if it is not in the coding at all."""
    if _MARKUP.match(body) and not _is_binary(body):
        return body  # decoded before it was stored
    pieces: list[bytes] = []
    room = max_bytes
    try:
        if coding == "zstd":
            return _zstd(body, max_bytes)
        decode = decoder(coding)
        for start in range(0, len(body), _PIECE):
            pieces.append(decode.feed(body[start : start + _PIECE], room))
            room -= len(pieces[-1])
    except CodingError:
        if not any(pieces):
            return body
    return b"".join(pieces)


def _without_chunks(body: bytes) -> bytes:
    """Return the data of a chunked body, up to where it is damaged; ``body`` itself if it is not in chunks."""
    pieces: list[bytes] = []
    at = 0
    while size := _CHUNK.match(body, at):
        end = size.end() + int(size[1], 16)
        if size.end() == end:
            return b"".join(pieces)
        if not pieces and end < len(body) and body[end : end + 1] not in b"\r\n":
            break  # what looked like a size was text
        pieces.append(body[size.end() : end])
        at = end
    return b"".join(pieces) if pieces else body


def _zstd(body: bytes, max_bytes: int) -> bytes:
    """Return ``body`` without its zstd coding, which pages in archives have though we never ask servers for it."""
    pieces: list[bytes] = []
    reader, room = ZstdReader(io.BytesIO(body)), max_bytes
    try:
        while room >= 0 and (piece := reader.read(_PIECE)):
            pieces.append(piece)
            room -= len(piece)
    except OSError as error:
        if not pieces:
            raise CodingError(str(error)) from None
    if room < 0:
        raise OversizeError(b"".join(pieces)[:max_bytes])
    return b"".join(pieces)

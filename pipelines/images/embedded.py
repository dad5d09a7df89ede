"""Metadata blocks embedded in image files: XMP packets and C2PA manifest stores, found without decoding the image.

JPEG has them in application segments, PNG and WebP in chunks. In other containers (GIF, TIFF, AVIF) both are found by
their own beginnings, for which XMP was made (ISO 16684-1, packet scanning).
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterator

from infra.images.header import MAX_PARTS, chunks

__all__ = ["c2pa_of", "xmp_of"]

_MAX_XMP, _MAX_C2PA = 1 << 20, 16 << 20  # bytes; of what is longer the rest is ignored. C2PA holds thumbnails
_XMP, _EXTENDED = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_PACKET = re.compile(rb"<x:x[am]pmeta|<rdf:RDF")
_STORE = b"jumdc2pa"  # type of the first box and its first four bytes, in a manifest store at offset 12
_GIF = b"\x21\xff\x0bC2PA_GIF\1\0\0"  # an application extension, with its three bytes of authentication code
_TEXT = b"XML:com.adobe.xmp\0"


def xmp_of(data: bytes) -> list[bytes]:
    """Return the XMP packets of an image file; none for most."""
    if data[:2] == b"\xff\xd8":
        extended = [
            (int.from_bytes(part[36:40], "big"), part[40:])
            for _, part in _segments(data, 0xE1, _EXTENDED)
            if len(part) > 40
        ]
        packets = [part for _, part in _segments(data, 0xE1, _XMP)]
        return packets + ([b"".join(part for _, part in sorted(extended))[:_MAX_XMP]] if extended else [])
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return [text for part in _chunks(data, b"iTXt", png=True) if (text := _png_text(part))]
    if data[:4] == b"RIFF":
        return list(_chunks(data, b"XMP ", png=False))
    return [data[found.start() : found.start() + _MAX_XMP]] if (found := _PACKET.search(data)) else []


def c2pa_of(data: bytes) -> bytes:
    """Return the C2PA manifest store of an image file, a JUMBF box; empty for most."""
    if data[:2] == b"\xff\xd8":
        return _jumbf_of_jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return next(_chunks(data, b"caBX", png=True), b"")
    if data[:4] == b"RIFF":
        return next(_chunks(data, b"C2PA", png=False), b"")
    if data[:4] == b"GIF8":
        return _blocks(data, at + len(_GIF)) if (at := data.find(_GIF)) >= 0 else b""
    at = data.find(_STORE) - 12
    return data[at : at + _MAX_C2PA] if at >= 0 else b""


def _chunks(data: bytes, wanted: bytes, *, png: bool) -> Iterator[bytes]:
    start = 8 if png else 12
    return (data[at : at + min(size, _MAX_C2PA)] for name, at, size in chunks(data, start, png=png) if name == wanted)


def _png_text(chunk: bytes) -> bytes:
    """Return the XMP in an ``iTXt`` chunk: keyword, compression flag and method, language, translated keyword, text."""
    if not chunk.startswith(_TEXT):
        return b""
    compressed, rest = chunk[len(_TEXT) : len(_TEXT) + 1] == b"\1", chunk[len(_TEXT) + 2 :]
    text = rest.split(b"\0", 2)[-1]
    if not compressed:
        return text
    try:
        return zlib.decompressobj().decompress(text, _MAX_XMP)
    except zlib.error:
        return b""


def _jumbf_of_jpeg(data: bytes) -> bytes:
    """Join the APP11 segments of the first box that is a manifest store (ISO 19566-5, annex D).

    Each segment has ``JP``, the number of the box, its own number, and the box's header once more.
    """
    boxes: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
    for _, part in _segments(data, 0xEB, b"JP"):
        boxes[part[:2]].append((int.from_bytes(part[2:6], "big"), part[6:]))
    for parts in boxes.values():
        parts.sort()
        head = 16 if parts[0][1][:4] == b"\0\0\0\1" else 8
        store = b"".join([parts[0][1], *(part[head:] for _, part in parts[1:])])
        if _STORE in store[:64]:
            return store[:_MAX_C2PA]
    return b""


def _blocks(data: bytes, at: int) -> bytes:
    """Join a GIF's data blocks: each has its length, at most 255, before it."""
    parts = []
    for _ in range(_MAX_C2PA // 255):
        size = data[at] if at < len(data) else 0
        if not size:
            break
        parts.append(data[at + 1 : at + 1 + size])
        at += 1 + size
    return b"".join(parts)


def _segments(data: bytes, wanted: int, prefix: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield offset and content, behind ``prefix``, of a JPEG's segments of one marker, before its first scan."""
    at = 2
    for _ in range(MAX_PARTS):
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] in (0xDA, 0xD9):
            return
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2:
            return
        if data[at + 1] == wanted and data.startswith(prefix, at + 4, at + 2 + length):
            yield at, data[at + 4 + len(prefix) : at + 2 + length]
        at += 2 + length

"""Headers of images: format, size and orientation from the first bytes, before anything is decoded.

A 40-byte WebP can claim 16,384 x 16,384 pixels, so size and shape are checked here, in plain Python that allocates
nothing. The format is recognised by magic bytes; file names and Content-Type cannot be trusted.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

__all__ = ["DEFLATE_RATIO", "FORMATS", "MAX_PARTS", "Header", "chunks", "read_header"]

FORMATS = ("jpeg", "png", "webp", "gif", "bmp")
"""The formats accepted. SVG, TIFF, PSD, PDF and the like are refused: their decoders are programs of their own."""

MAX_PARTS = 1 << 18
"""Segments, chunks or blocks examined in a file, at most; the largest files accepted have half as many."""

DEFLATE_RATIO = 1032
"""The highest compression ratio of deflate."""

_JPEG_MARKER = re.compile(rb"\xff+([^\xff])")  # may be padded with any number of 0xFF
_JPEG_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_JPEG_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_ARITHMETIC = {*range(0xC9, 0xD0)}
_JPEG_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_ORIENTATION = 0x0112
_PNG_SAMPLES = {2: 3, 4: 2, 6: 4}  # samples of a pixel, by colour type; 1 for the others


@dataclass(frozen=True)
class Header:
    """``width`` and ``height`` in pixels as stored. ``exif`` is the TIFF block of the Exif data, empty if none.

    ``passes``: a JPEG that may have several scans.
    ``least``: bytes that a complete file of this size has at least; decoders would fill what is missing with grey. A
    Huffman-coded JPEG has a bit for each block of 64 pixels, and deflate compresses the rows of a PNG 1032 times at
    most.
    """

    format: str
    width: int
    height: int
    exif: bytes = b""
    passes: bool = False
    least: int = 0

    @cached_property
    def orientation(self) -> int:
        """The Exif orientation, 1 (upright) to 8; 1 when absent or absurd."""
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(self.exif[:4])
        if order is None:
            return 1
        try:
            (start,) = struct.unpack_from(f"{order}I", self.exif, 4)
            (count,) = struct.unpack_from(f"{order}H", self.exif, start)
            for entry in range(count):
                tag, _, _, value = struct.unpack_from(f"{order}HHIH", self.exif, start + 2 + 12 * entry)
                if tag == _ORIENTATION:
                    return value if 1 <= value <= 8 else 1
        except struct.error:
            pass  # a directory that points outside its block
        return 1

    @property
    def turned(self) -> bool:
        """True if the image is shown with width and height exchanged."""
        return self.orientation >= 5


def read_header(data: bytes) -> Header | None:
    """The header of an image file; None for other formats than :data:`FORMATS`, or if the size is cut off."""
    try:
        header = _read(data)
    except (struct.error, IndexError):
        return None
    return header if header and header.width > 0 and header.height > 0 else None


def _read(data: bytes) -> Header | None:
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
        width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
        row = 1 + width * depth * _PNG_SAMPLES.get(colour, 1) // 8
        return Header("png", width, height, _png_exif(data), least=row * height // DEFLATE_RATIO)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return Header("gif", *struct.unpack_from("<HH", data, 6))
    if data[:2] == b"BM":
        return _bmp(data)
    return None


def _jpeg(data: bytes) -> Header | None:
    """The header before the first scan, which is the only one if it has all components and is not progressive."""
    frame, height, width, components = 0, 0, 0, 0
    passes, exif, at = True, b"", 2
    for _ in range(MAX_PARTS):
        found = _JPEG_MARKER.match(data, at)
        if found is None:
            break
        marker, at = found[1][0], found.end()
        if marker in _JPEG_STANDALONE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or marker == 0xD9:
            break
        if marker == 0xDA:
            passes = frame in _JPEG_PROGRESSIVE or data[at + 2] < components
            break
        if marker in _JPEG_FRAME and not frame:
            frame, (height, width, components) = marker, struct.unpack_from(">HHB", data, at + 3)
        if marker == 0xE1 and not exif and data[at + 2 : at + 8] == b"Exif\0\0":
            exif = data[at + 8 : at + length]
        at += length
    blocks = 0 if frame in _JPEG_ARITHMETIC else -(-width // 8) * -(-height // 8)
    return Header("jpeg", width, height, exif, passes, least=blocks // 8)


def _png_exif(data: bytes) -> bytes:
    for kind, start, length in chunks(data, 8, png=True):
        if kind == b"eXIf":
            return data[start : start + length]
        if kind == b"IDAT":
            break
    return b""


def _webp(data: bytes) -> Header | None:
    kind, body = data[12:16], data[20:]
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", body, 6)
        return Header("webp", width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L" and body[0] == 0x2F:
        (bits,) = struct.unpack_from("<I", body, 1)
        return Header("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8X":
        width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
        exif = next((data[at : at + size] for name, at, size in chunks(data, 12, png=False) if name == b"EXIF"), b"")
        return Header("webp", width, height, exif.removeprefix(b"Exif\0\0"))
    return None


def _bmp(data: bytes) -> Header | None:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:  # OS/2
        return Header("bmp", *struct.unpack_from("<HH", data, 18))
    width, height = struct.unpack_from("<ii", data, 18)
    return Header("bmp", width, abs(height))  # negative: stored top down


def chunks(data: bytes, at: int, *, png: bool) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length of each chunk. A checksum follows PNG's; RIFF's are padded to even length."""
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            break
        if png:
            length, name = struct.unpack_from(">I4s", data, at)
        else:
            name, length = struct.unpack_from("<4sI", data, at)
        yield name, at + 8, length
        at += 8 + length + (4 if png else length % 2)

"""Headers of images: format, size and orientation, before anything is decoded.

A 40-byte WebP can claim 16,384 x 16,384 pixels, so size and shape are checked here, in plain Python that allocates
nothing. The format is recognised by magic bytes; file names and Content-Type cannot be trusted. Formats whose headers
are directories of their own are read where they are decoded, in another process (:mod:`infra.images.isolated`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from infra.images import isolated, jpeg
from infra.images.jpeg import MAX_PARTS

__all__ = [
    "DEFLATE_RATIO",
    "MAX_PARTS",
    "PNG_SAMPLES",
    "Header",
    "after_blocks",
    "chunks",
    "gif_colours",
    "read_header",
]

DEFLATE_RATIO = 1032
"""The highest compression ratio of deflate."""

PNG_SAMPLES = {2: 3, 4: 2, 6: 4}
"""Samples of a PNG's pixel by colour type; 1 for the others."""

_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Header:
    """``width`` and ``height`` in pixels as stored. ``exif`` is the TIFF block of the Exif data, empty if none.

    ``frame``: a JPEG's frame header. ``passes``: the picture may lie in several scans.
    ``least``: bytes that a complete file of this size has at least; decoders would fill what is missing with grey. A
    Huffman-coded JPEG has a bit for each block of 64 pixels, and deflate compresses the rows of a PNG 1032 times at
    most.
    ``upright``: the decoder turns the image itself, and the size is that of the result.
    """

    format: str
    width: int
    height: int
    exif: bytes = b""
    frame: jpeg.Frame | None = None
    passes: bool = False
    least: int = 0
    upright: bool = False

    @cached_property
    def orientation(self) -> int:
        """The Exif orientation, 1 (upright) to 8; 1 when absent or absurd."""
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(self.exif[:4])
        if order is None or self.upright:
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
    """The header of an image file; None for other formats than :data:`formats.ACCEPTED`, or if the size is cut off.

    Raises ImageError if reading it exceeds a limit.
    """
    try:
        header = _read(data)
    except (struct.error, IndexError):
        return None
    return header if header and header.width > 0 and header.height > 0 else None


def _read(data: bytes) -> Header | None:
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
        width, height, depth, colour, *_ = struct.unpack_from(">IIBBBBB", data, 16)
        row = 1 + width * depth * PNG_SAMPLES.get(colour, 1) // 8
        return Header("png", width, height, _png_exif(data), least=row * height // DEFLATE_RATIO)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return _gif(data)
    if form := isolated.format_of(data):
        known = isolated.header(form, data)
        return known and Header(form, *known, upright=True)
    return None


def _jpeg(data: bytes) -> Header | None:
    """The header before the first scan, which is the only one if it has all components and is not progressive."""
    frame, exif, passes = None, b"", True
    for marker, start, end in jpeg.segments(data):
        content = data[start:end]
        frame = frame or jpeg.frame(marker, content)
        if marker == 0xE1 and not exif and content[:6] == b"Exif\0\0":
            exif = content[6:]
        if marker == 0xDA and frame:
            passes = frame.is_progressive or content[0] < len(frame.components)
    if frame is None:
        return None
    blocks = 0 if frame.is_arithmetic else -(-frame.width // 8) * -(-frame.height // 8)
    return Header("jpeg", frame.width, frame.height, exif, frame, passes, least=blocks // 8)


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


def _gif(data: bytes) -> Header:
    """The screen, made larger where the first frame needs it, as browsers do."""
    width, height = struct.unpack_from("<HH", data, 6)
    try:
        at = 13 + gif_colours(data[10])
        for _ in range(MAX_PARTS):
            if data[at] == 0x2C:
                left, top, wide, high = struct.unpack_from("<4H", data, at + 1)
                return Header("gif", max(width, left + wide), max(height, top + high))
            if data[at] == 0x3B:
                break
            # GIF87a: what stands between two blocks is passed over.
            at = after_blocks(data, at + 2) if data[at] == 0x21 else at + 1
    except (IndexError, struct.error):
        pass  # cut off
    return Header("gif", width, height)


def gif_colours(flags: int) -> int:
    """Bytes of a GIF's colour table."""
    return 6 << (flags & 7) if flags & 0x80 else 0


def after_blocks(data: bytes, at: int) -> int:
    """Offset behind a GIF's data blocks at ``at``. Raises IndexError beyond the end or after too many blocks."""
    for _ in range(MAX_PARTS):
        size = data[at]
        at += size + 1
        if not size:
            return at
    raise IndexError("too many blocks")


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

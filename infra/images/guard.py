"""Decompression bombs: files reduced to their first image, or refused, before a decoder sees them.

Decoders trust what they read. A scan of a JPEG takes ten bytes and costs a pass over all pixels; the texts of a PNG are
inflated into memory for no use; a GIF may clear its code table after every code. Each of these lets a file of some
megabytes keep a core busy for minutes or hours, whatever the size of the image. The work is computed beforehand rather
than limited by a clock, so the answer is the same on every machine.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from infra.images import jpeg
from infra.images.errors import ImageError
from infra.images.header import DEFLATE_RATIO, MAX_PARTS, PNG_SAMPLES, Header, after_blocks, chunks, gif_colours
from infra.schema import Drop

__all__ = ["GifFrame", "gif_frames", "jpeg_to_decode", "png_to_decode"]

_MAX_SCANS = 64  # of a JPEG; real ones have about 10
_MAX_WORK = 1e9  # pixels times scans: seconds
_MAX_SURPLUS = 1 << 31  # bytes a PNG may inflate to beyond its pixels: seconds; inflating it twice takes time, too
_MAX_FRAMES = 32  # of a GIF, looked through for the first that shows anything

_ONCE = {b"IHDR", b"PLTE", b"tRNS"}
_COLOUR_KEYED = (0, 2)  # PNG's colour types grey and RGB


# --- JPEG -------------------------------------------------------------------------------------------------------------


def jpeg_to_decode(data: bytes, header: Header) -> tuple[bytes, bool]:
    """The file, with an end mark if it lacks one, and whether its scans hold all of the picture.

    Raises ImageError for too many scans.
    """
    whole = True
    if header.frame and header.passes:
        scans = jpeg.scans(data)
        if len(scans) > _MAX_SCANS or len(scans) * header.width * header.height > _MAX_WORK:
            raise ImageError(Drop.DECODE)
        whole = jpeg.is_complete(header.frame, scans)
    return jpeg.ended(data), whole


# --- PNG --------------------------------------------------------------------------------------------------------------


def png_to_decode(data: bytes, header: Header) -> tuple[bytes, tuple[int, ...]]:
    """Header, palette and pixels, the first of each: no texts, no profiles, no animation; and the transparent colour.

    The colour, a value for each sample, is kept apart since OpenCV does not know it in grey images. The transparency of
    palettes stays in the file. Raises ImageError if it must not be decoded, or if pixels are missing.
    """
    kept, once, clear = [data[:8]], set(_ONCE), b""
    pixels: list[bytes] = []
    colour = data[25]
    ended = False
    for name, start, length in chunks(data, 8, png=True):
        ended = name == b"IEND"
        if ended or start + length + 4 > len(data):  # OpenCV would allocate all that a chunk claims first, up to 4 GB
            if name == b"IDAT":
                pixels.append(data[start : start + length])
                kept.append(png_chunk(b"IDAT", pixels[-1]))
            break
        if name == b"IDAT":
            pixels.append(data[start : start + length])
        if name == b"tRNS" and colour in _COLOUR_KEYED:
            clear = clear or data[start : start + length]
        elif name == b"IDAT" or name in once:
            kept.append(data[start - 8 : start + length + 4])
        once.discard(name)
    else:
        if start + length + 12 <= len(data):
            raise ImageError(Drop.DECODE)  # more chunks than are examined
    most = 2 * DEFLATE_RATIO * (header.least + 1)  # twice, for the passes of an interlaced one
    if not ended or sum(map(len, pixels)) * DEFLATE_RATIO > most + _MAX_SURPLUS:
        size, whole = _inflated(pixels, most)
        if size > most:
            raise ImageError(Drop.DECODE)
        if not ended and not whole:
            raise ImageError(Drop.TRUNCATED)
    samples = struct.unpack(f">{len(clear) // 2}H", clear[: len(clear) // 2 * 2])
    return b"".join(kept) + png_chunk(b"IEND", b""), samples[: PNG_SAMPLES.get(colour, 1)]


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _inflated(parts: list[bytes], most: int) -> tuple[int, bool]:
    """Bytes that the zlib stream in ``parts`` holds, ``most`` + 1 at most, and whether it has its end."""
    stream, size, piece = zlib.decompressobj(), 0, 1 << 14
    try:
        for part in parts:
            for start in range(0, len(part), piece):
                size += len(stream.decompress(part[start : start + piece], most + 1 - size))
                if size > most or stream.eof:
                    return size, stream.eof
    except zlib.error:
        pass  # it ends where the damage is
    return size, False


# --- GIF --------------------------------------------------------------------------------------------------------------


class GifFrame(NamedTuple):
    """A frame: its place on the screen in pixels, and a GIF of its own with a screen of its size."""

    left: int
    top: int
    width: int
    height: int
    data: bytes


def gif_frames(data: bytes, header: Header) -> Iterator[GifFrame]:
    """Those of the first 32 frames that have pixels, and no more than the image. Raises ImageError."""
    try:
        at = 13 + gif_colours(data[10])
        colours, control, found = data[13:at], b"", 0
        for _ in range(MAX_PARTS):
            if data[at] == 0x21:  # an extension
                end = after_blocks(data, at + 2)
                if data[at + 1] == 0xF9:  # graphic control: which colour is transparent
                    control = data[at:end]
            elif data[at] == 0x2C:  # an image
                left, top, width, height = struct.unpack_from("<4H", data, at + 1)
                end = _after_pixels(data, at + 11 + gif_colours(data[at + 9]))
                found += 1
                if found > _MAX_FRAMES:
                    return
                if 0 < width * height <= header.width * header.height:
                    screen = b"GIF89a" + struct.pack("<HH", width, height) + data[10:13] + colours
                    descriptor = b"\x2c\0\0\0\0" + data[at + 5 : at + 9]
                    yield GifFrame(left, top, width, height, screen + control + descriptor + data[at + 9 : end] + b";")
                control = b""
            elif data[at] == 0x3B:  # the end
                return
            else:  # GIF87a: what stands between two blocks is passed over
                end = at + 1
            at = end
    except (IndexError, struct.error):
        raise ImageError(Drop.TRUNCATED) from None


def _after_pixels(data: bytes, at: int) -> int:
    """Offset behind the data blocks of a frame; the end of the file if only their end mark is missing."""
    try:
        return after_blocks(data, at)
    except IndexError:
        if at >= len(data):
            raise
        return len(data)

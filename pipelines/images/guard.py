"""Decompression bombs: files reduced to their first image, or refused, before a decoder sees them.

Decoders trust what they read. A scan of a JPEG takes ten bytes and costs a pass over all pixels; the texts of a PNG are
inflated into memory for no use; a GIF may clear its code table after every code. Each of these lets a file of some
megabytes keep a core busy for minutes or hours, whatever the size of the image. The work is computed beforehand rather
than limited by a clock, so the answer is the same on every machine.
"""

from __future__ import annotations

import re
import zlib

from pipelines.images.header import DEFLATE_RATIO, MAX_PARTS, Header, chunks

__all__ = ["guarded"]

_MAX_SCANS = 64  # of a JPEG; real ones have about 10
_MAX_WORK = 1e9  # pixels times scans: seconds
_MAX_SURPLUS = 1 << 31  # bytes a PNG may inflate to beyond its pixels: seconds; inflating it twice takes time, too

_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # of a JPEG, those inside of scans left out
_SCAN, _END = b"\xda", b"\xd9"
_ONCE = {b"IHDR", b"PLTE", b"tRNS"}


def guarded(data: bytes, header: Header) -> bytes | None:
    """The file, or the part of it that its first image needs; None if it must not be decoded."""
    if header.format == "jpeg" and header.passes:
        scans = _scans(data)
        return None if scans > _MAX_SCANS or scans * header.width * header.height > _MAX_WORK else data
    if header.format == "png":
        return _png(data, header)
    return _gif(data, header) if header.format == "gif" else data


def _scans(data: bytes) -> int:
    """The number of scans of a JPEG, without those of thumbnails in its header and of what follows its end."""
    at, scans = 2, 0
    for _ in range(MAX_PARTS):
        marker = _MARKER.search(data, at)
        if marker is None or marker[1] == _END:
            return scans
        scans += marker[1] == _SCAN
        at = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2], "big"))
    return MAX_PARTS


def _png(data: bytes, header: Header) -> bytes | None:
    """Header, palette and transparency, the first of each, and pixels: no texts, no profiles, no animation."""
    kept, pixels, once = [data[:8]], [], set(_ONCE)
    for name, start, length in chunks(data, 8, png=True):
        if name == b"IEND":
            break
        if start + length > len(data):
            return None  # OpenCV would allocate all of it first, up to 4 GB
        if name == b"IDAT":
            pixels.append(data[start : start + length])
        if name == b"IDAT" or name in once:
            kept.append(data[start - 8 : start + length + 4])
        once.discard(name)
    else:
        if start + length + 4 < len(data):
            return None  # more chunks than are examined
    most = 2 * DEFLATE_RATIO * (header.least + 1)  # twice, for the passes of an interlaced one
    if sum(map(len, pixels)) * DEFLATE_RATIO > most + _MAX_SURPLUS and _inflates(pixels, most):
        return None
    return b"".join(kept) + _PNG_END


_PNG_END = b"\0\0\0\0IEND" + zlib.crc32(b"IEND").to_bytes(4, "big")


def _inflates(parts: list[bytes], most: int) -> bool:
    """True if the zlib stream in ``parts`` holds more than ``most`` bytes. A damaged one ends where the damage is."""
    stream, size, piece = zlib.decompressobj(), 0, 1 << 14
    try:
        for part in parts:
            for start in range(0, len(part), piece):
                size += len(stream.decompress(part[start : start + piece], most + 1 - size))
                if size > most or stream.eof:
                    return size > most
    except zlib.error:
        return False
    return False


def _gif(data: bytes, header: Header) -> bytes | None:
    """Screen, colours and first frame; None without a whole frame that fits the screen."""
    try:
        at = 13 + _colours(data[10])
        head, control = data[:at], b""
        for _ in range(MAX_PARTS):
            if data[at] == 0x21:  # an extension
                end = _after_blocks(data, at + 2)
                if data[at + 1] == 0xF9:  # graphic control: which colour is transparent
                    control = data[at:end]
                at = end
            elif data[at] == 0x2C:  # an image
                left, top, width, height = (int.from_bytes(data[at + n : at + n + 2], "little") for n in (1, 3, 5, 7))
                if left + width > header.width or top + height > header.height:
                    return None
                end = _after_blocks(data, at + 11 + _colours(data[at + 9]))
                return head + control + data[at:end] + b";"
            else:
                return None
    except IndexError:
        pass  # cut off
    return None


def _colours(flags: int) -> int:
    """Bytes of a colour table."""
    return 6 << (flags & 7) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    """Offset behind a GIF's data blocks at ``at``. Raises IndexError beyond the end or after too many blocks."""
    for _ in range(MAX_PARTS):
        size = data[at]
        at += size + 1
        if not size:
            return at
    raise IndexError("too many blocks")

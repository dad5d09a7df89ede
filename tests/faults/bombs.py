"""Hostile bytes: bodies and images that are small to send and dear to read, and the healthy ones beside them.

Everything is made here from formats' own building blocks, in milliseconds and without a clock or chance.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from functools import cache

import brotli
import numpy as np
from PIL import Image

MB = 1 << 20


@cache
def picture(form: str, mode: str = "RGB", **options) -> bytes:
    """A 96 x 64 image with enough in it to be cut in two."""
    noise = np.random.default_rng(7).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((96, 64), Image.Resampling.BILINEAR).convert(mode)
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


HEALTHY_IMAGE = picture("JPEG")
HEALTHY_PAGE = (
    b"<!doctype html><title>A page</title><p>Words.<a href=/next.html>on</a>"
    b"<img src=/healthy.jpg alt='A picture of a thing'>"
)

# --- content codings --------------------------------------------------------------------------------------------------


@cache
def gzip_bomb() -> bytes:
    """256 MB of spaces, a thousand to one."""
    return _bomb(31, 256)


@cache
def deflate_bomb(megabytes: int = 256) -> bytes:
    """The same as a zlib stream."""
    return _bomb(15, megabytes)


def _bomb(wbits: int, megabytes: int, start: bytes = b"") -> bytes:
    """``start``, then one megabyte packed, and that repeated: between full flushes a stream has no memory."""
    stream = zlib.compressobj(9, wbits=wbits)
    first = stream.compress(start + b" " * MB) + stream.flush(zlib.Z_FULL_FLUSH)
    again = stream.compress(b" " * MB) + stream.flush(zlib.Z_FULL_FLUSH)
    return first + again * (megabytes - 1) + stream.flush()


@cache
def brotli_bomb(megabytes: int = 64) -> bytes:
    """A megabyte to one."""
    stream = brotli.Compressor(quality=5, lgwin=24)
    return b"".join(stream.process(b" " * MB) for _ in range(megabytes)) + stream.finish()


@cache
def empty_members(count: int = 50_000) -> bytes:
    """gzip members that hold nothing at all, one behind the other."""
    return gzip.compress(b"", mtime=0) * count


def flipped(data: bytes, at: int, size: int = 8) -> bytes:
    """``data`` with some bytes in the middle turned over."""
    return data[:at] + bytes(byte ^ 0xFF for byte in data[at : at + size]) + data[at + size :]


# --- PNG --------------------------------------------------------------------------------------------------------------


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *before: bytes, depth: int = 8, colour: int = 2, pixels: bytes | None = None) -> bytes:
    """A PNG of one colour, or of the zlib stream ``pixels``, with chunks ``before`` its pixels."""
    samples = {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    if pixels is None:
        row = b"\0" + b"\x80" * (width * samples * depth // 8)
        stream = zlib.compressobj(9)
        pixels = b"".join(stream.compress(row) for _ in range(height)) + stream.flush()
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
            *before,
            png_chunk(b"IDAT", pixels),
            png_chunk(b"IEND", b""),
        )
    )


def png_claiming(width: int, height: int) -> bytes:
    """A few bytes that say they are that large."""
    return png(width, height, pixels=zlib.compress(b"\0" * 100))


@cache
def png_with_bomb(where: str) -> bytes:
    """A small picture with 128 MB of zeros in its colour profile, its text or behind its pixels."""
    if where == "iCCP":
        return png(96, 64, png_chunk(b"iCCP", b"profile\0\0" + deflate_bomb(128)))
    if where == "zTXt":
        return png(96, 64, png_chunk(b"zTXt", b"Comment\0\0" + deflate_bomb(128)))
    return png(96, 64, pixels=_bomb(15, 128, start=(b"\0" + b"\x80" * 288) * 64))


def png_with_a_long_chunk(name: bytes) -> bytes:
    """A chunk that says it has four gigabytes, of which a few bytes are there."""
    data = picture("PNG", "P")
    at = data.index(name) - 4
    return data[:at] + b"\xff\xff\xff\xf0" + data[at + 4 :]


@cache
def png_with_texts(megabytes: int) -> bytes:
    """A small picture with texts that are inflated and kept, eight megabytes each, the most libpng takes."""
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b" " * 7_900_000, 9))
    return png(96, 64, text * (megabytes // 8))


@cache
def png_with_more_behind_its_pixels(megabytes: int) -> bytes:
    """A stream that goes on behind the picture, and is read to its end to check its sum."""
    return png(96, 64, pixels=_bomb(15, megabytes, start=(b"\0" + b"\x80" * 288) * 64))


# --- JPEG -------------------------------------------------------------------------------------------------------------


def jpeg_claiming(width: int, height: int, data: bytes = HEALTHY_IMAGE) -> bytes:
    """``data`` with another size in its frame header."""
    at = next(data.index(marker) for marker in (b"\xff\xc0\x00\x11", b"\xff\xc2\x00\x11") if marker in data)
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


@cache
def jpeg_of_scans(count: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan is sent again and again, each costing a pass over all pixels."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg_of_sequential_scans(count: int, side: int) -> bytes:
    """A baseline JPEG that sends each colour by itself, and two of them again and again; ten bytes a scan."""
    table = bytes([1] + [0] * 15) + b"\0"  # one code, of one bit: no difference, end of block
    tables = _segment(0xDB, b"\0" + b"\1" * 64) + _segment(0xC4, b"\x00" + table) + _segment(0xC4, b"\x10" + table)
    frame = _segment(0xC0, struct.pack(">BHHB", 8, side, side, 3) + b"".join(bytes([n, 0x11, 0]) for n in (1, 2, 3)))
    blocks = (-(-side // 8)) ** 2
    scans = [_segment(0xDA, bytes([1, n, 0, 0, 63, 0])) + bytes(blocks // 4 + 1) for n in (1, 2, 3)]
    empty = _segment(0xDA, bytes([1, 2, 0, 0, 63, 0])) + _segment(0xDA, bytes([1, 3, 0, 0, 63, 0]))
    return b"\xff\xd8" + tables + frame + b"".join(scans) + empty * (count // 2) + b"\xff\xd9"


def jpeg_with(exif: bytes) -> bytes:
    return HEALTHY_IMAGE[:2] + _segment(0xE1, b"Exif\0\0" + exif) + HEALTHY_IMAGE[2:]


def exif_in_circles(pointers: int, entries: int) -> bytes:
    """So many pointers to one and the same directory, each of whose entries has 999 values."""
    at = 8 + 2 + 12 * pointers + 4
    first = b"".join(struct.pack("<HHII", 0x8825, 4, 1, at) for _ in range(pointers))
    second = b"".join(struct.pack("<HHII", 0x9C00 + n, 1, 999, 8) for n in range(entries))
    directories = struct.pack("<H", pointers) + first + bytes(4) + struct.pack("<H", entries) + second + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directories


# --- GIF, WebP, BMP ---------------------------------------------------------------------------------------------------

_PIXEL = b"\x02\x02\x44\x01\x00"  # one pixel of colour 0, LZW-coded


def gif(width: int, height: int, *frames: tuple[int, int]) -> bytes:
    """A GIF of a screen and of frames of their own claimed sizes, each holding one pixel."""
    body = b"".join(
        b"\x21\xf9\x04\0\x01\0\0\0" + b"\x2c\0\0\0\0" + struct.pack("<HHB", *size, 0) + _PIXEL for size in frames
    )
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\xff\0\0\0\0\xff" + body + b"\x3b"


def gif_of_comments(size: int) -> bytes:
    """Blocks of one byte before the picture."""
    head = gif(64, 64, (1, 1))
    return head[:19] + b"\x21\xfe" + b"\1x" * (size // 2) + b"\0" + head[19:]


def gif_that_forgets(size: int, side: int = 64) -> bytes:
    """Before its pixels, and between each and the next, codes that empty the table, three bits each."""

    def packed(codes: str) -> bytes:  # of 4 (empty), 0 and 5 (end), the lowest bit first
        return np.packbits(np.array(list(codes), np.uint8), bitorder="little").tobytes()

    stream = packed("001" * 8) * (size // 3) + packed("001000" * side * side + "101")
    blocks = b"".join(bytes([len(part)]) + part for part in (stream[n : n + 255] for n in range(0, len(stream), 255)))
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\xff\0\0\0\0\xff"
    return head + b"\x2c\0\0\0\0" + struct.pack("<HHBB", side, side, 0, 2) + blocks + b"\0\x3b"


def _riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _lossless(width: int, height: int) -> bytes:
    return b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes.fromhex("0710111188880807") + bytes(7)


def webp_claiming(width: int, height: int) -> bytes:
    """Forty bytes."""
    return _riff((b"VP8L", _lossless(width, height)))


def webp_of_another_size_within(width: int, height: int) -> bytes:
    """A canvas of 16 x 16 around a picture of another size."""
    canvas = bytes(4) + (15).to_bytes(3, "little") * 2
    return _riff((b"VP8X", canvas), (b"VP8L", _lossless(width, height)))


def bmp(width: int, height: int, *, bits: int = 24, compression: int = 0, offset: int = 54, info: int = 40) -> bytes:
    """A BMP header as it should not be, and hardly any pixels."""
    header = struct.pack("<IiiHHIIiiII", info, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 70, 0, 0, offset) + header + bytes(16)


# --- formats decoded in a process of their own ------------------------------------------------------------------------


def _tiff(*entries: tuple[int, int, int, int], rest: bytes = b"") -> bytes:
    """A TIFF of one directory of (tag, type, count, value), and ``rest`` behind it."""
    directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + rest


_TIFF_GREY = [(256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 1, 8), (262, 3, 1, 1)]  # 64 x 64, 8 bits


def tiff_with_a_giant_tile(side: int) -> bytes:
    """64 x 64 pixels in one deflated tile of that side."""
    at, pixels = 8 + 2 + 12 * 9 + 4, zlib.compress(b"\x80" * 4096)
    tile = [(259, 3, 1, 8), (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, at), (325, 4, 1, len(pixels))]
    return _tiff(*_TIFF_GREY, *tile, rest=pixels)


def bmp_that_stands_still(size: int) -> bytes:
    """Run-length codes that move by nothing, over and over; Pillow reads each in Python."""
    data = bmp(64, 64, bits=8, compression=1, offset=54 + 1024)
    return data[:54] + bytes(1024) + b"\0\2\0\0" * (size // 4) + b"\0\1"


def tiff_that_repeats_itself(tags: int, values: int) -> bytes:
    """So many tags whose values are all the same bytes."""
    at = 8 + 2 + 12 * (4 + tags) + 4
    again = [(40_000 + n, 3, values, at) for n in range(tags)]
    return _tiff(*_TIFF_GREY, *again, rest=b"\1" * (2 * values))


def avif_claiming(width: int, height: int) -> bytes:
    """Another size in all its properties of size, the stream within left as it is."""
    parts = picture("AVIF").split(b"ispe")
    size = bytes(4) + struct.pack(">II", width, height)
    return parts[0] + b"".join(b"ispe" + size + part[12:] for part in parts[1:])


def jp2_claiming(width: int, height: int) -> bytes:
    """Another size in its header box and in its stream."""
    data = picture("JPEG2000")
    box, stream = data.index(b"ihdr") + 4, data.index(b"\xff\x51") + 6
    data = data[:box] + struct.pack(">II", height, width) + data[box + 8 :]
    return data[:stream] + struct.pack(">II", width, height) + data[stream + 8 :]


def png_with_two_headers() -> bytes:
    """The first is what a reader of headers sees, the second what a careless decoder allocates."""
    second = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    return png(64, 64, second)


def jpeg_with_two_frames() -> bytes:
    """Two frame headers, of which the second claims all there is."""
    at = HEALTHY_IMAGE.index(b"\xff\xc0\x00\x11")
    large = jpeg_claiming(65535, 65535)[at : at + 19]
    return HEALTHY_IMAGE[: at + 19] + large + HEALTHY_IMAGE[at + 19 :]

"""Decoding against Pillow, and what must not pass for an image: cut, with holes, transparent throughout."""

import base64
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from infra.images import isolated
from infra.images.decode import decode
from infra.images.errors import ImageError
from infra.images.header import read_header
from infra.schema import Drop


def photo(width: int = 120, height: int = 90, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    layers = (rng.integers(0, 256, (size, size, 3)).astype(np.float32) / size for size in (4, 8, 16, 32, 64))
    pixels = sum(cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC) for layer in layers) * 2
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def ours(data: bytes) -> np.ndarray:
    """RGB as decoded."""
    header = read_header(data)
    assert header is not None
    pixels = decode(data, header)
    assert pixels.shape[:2] == ((header.width, header.height) if header.turned else (header.height, header.width))
    return np.repeat(pixels[:, :, None], 3, 2) if pixels.ndim == 2 else pixels[:, :, ::-1]


def pillows(data: bytes) -> np.ndarray:
    """RGB on white, upright."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


def why(data: bytes) -> Drop:
    with pytest.raises(ImageError) as error:
        ours(data)
    return error.value.reason


# --- JPEG: what is wrong with the head does not matter ----------------------------------------------------------------

JPEG = encoded(photo(), "JPEG", quality=90, comment=b"fifteen letters")
PROGRESSIVE = encoded(photo(), "JPEG", quality=90, progressive=True)
RESTARTED = encoded(photo(), "JPEG", quality=90, restart_marker_blocks=4)
COMMENT = JPEG.index(b"\xff\xfe")
SHORT = JPEG[: COMMENT + 2] + struct.pack(">H", 4) + JPEG[COMMENT + 4 :]  # shorter than its text
HEADS = {
    "stray bytes": JPEG[:20] + b"ab" + JPEG[20:],
    "stray zeros and marks": JPEG[:20] + b"\xff\0\xff\xff\0" + JPEG[20:],
    "a length too short": SHORT,
    "a length of nothing": JPEG[:20] + b"\xff\xe5\0\0" + JPEG[20:],
    "a restart": JPEG[:20] + b"\xff\xd3" + JPEG[20:],
    "a profile of garbage": encoded(photo(), "JPEG", quality=90, icc_profile=b"\xff\xd8garbage" * 40),
    "Exif of garbage": encoded(photo(), "JPEG", quality=90, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "JFIF of the future": JPEG.replace(b"JFIF\0\1\1", b"JFIF\0\7\7"),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_bad_head_changes_no_pixel_of_a_jpeg(name):
    assert np.array_equal(ours(HEADS[name]), ours(JPEG))


@pytest.mark.parametrize("name", HEADS)
def test_a_bad_head_does_not_hide_missing_pixels(name):
    assert why(HEADS[name][: len(HEADS[name]) // 2] + b"\xff\xd9") is Drop.TRUNCATED


# --- JPEG: whole, or cut ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, RESTARTED], ids=["baseline", "progressive", "restarted"])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9", b"\xff"], ids=["cut", "with an end mark", "within a mark"])
def test_a_cut_jpeg_is_truncated(data, end):
    scan = data.index(b"\xff\xda")
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert why(data[: int(scan + part * (len(data) - scan))] + end) is Drop.TRUNCATED


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, RESTARTED], ids=["baseline", "progressive", "restarted"])
@pytest.mark.parametrize("end", [b"", b"\xff", b"\xff\xd9" + bytes(99), b"\xff\xd9video" + JPEG, b"xx\xff\xd9"])
def test_a_jpeg_that_lacks_only_its_end_is_whole(data, end):
    assert np.array_equal(ours(data[:-2] + end), ours(data))


@pytest.mark.parametrize("fill", [b"", bytes(900), b"\xff" * 900, b"\xaa" * 900], ids=["none", "zeros", "ones", "bits"])
@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, RESTARTED], ids=["baseline", "progressive", "restarted"])
def test_a_jpeg_with_a_hole_is_refused(data, fill):
    start = data.index(b"\xff\xda") + 1500
    assert why(data[:start] + fill + data[start + 900 :]) in (Drop.TRUNCATED, Drop.DECODE)


def test_a_progressive_jpeg_without_its_last_scans_is_truncated():
    """What is there decodes without a warning, only blurred."""
    scans = [at for at in range(len(PROGRESSIVE)) if PROGRESSIVE[at : at + 2] in (b"\xff\xda", b"\xff\xc4")]
    for scan in scans[scans.index(PROGRESSIVE.index(b"\xff\xda")) + 1 :]:
        assert why(PROGRESSIVE[:scan] + b"\xff\xd9") is Drop.TRUNCATED


# --- PNG and GIF ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB"])
def test_a_transparent_colour_of_a_png_lies_on_white(mode, interlaced):
    image = (
        photo().convert(mode) if mode != "I;16" else Image.fromarray(np.asarray(photo().convert("L")) * np.uint16(257))
    )
    clear = image.getpixel((40, 30))
    data = encoded(image, "PNG", transparency=bool(clear) if mode == "1" else clear)
    expected = np.asarray(image.convert("RGB") if mode != "I;16" else photo().convert("L").convert("RGB")).copy()
    hidden = np.asarray(image) == (bool(clear) if mode == "1" else clear)
    expected[hidden.all(axis=2) if mode == "RGB" else hidden] = 255
    assert np.array_equal(ours(data), expected)
    assert hidden.any() and not hidden.all()


def test_a_png_is_whole_without_its_end_and_truncated_without_a_row():
    data = encoded(photo(), "PNG")
    end = data.rindex(b"IEND") - 4
    for whole in (data[:end], data[: end - 4]):
        assert np.array_equal(ours(whole), pillows(data))
    assert why(data[: end - 7]) is Drop.TRUNCATED
    assert why(data[: end - 60]) is Drop.TRUNCATED
    assert why(data[: end - 60] + data[end:]) is Drop.TRUNCATED


CODES = {0: "001000", 1: "001100", 2: "001010"}  # empty the table, then a colour, the lowest bit first


def frame(left, top, width, height, colour, clear=None):
    codes = CODES[colour] * (width * height) + "101"
    stream = np.packbits(np.array(list(codes), np.uint8), bitorder="little").tobytes()
    blocks = b"".join(bytes([len(part)]) + part for part in (stream[n : n + 255] for n in range(0, len(stream), 255)))
    control = struct.pack("<HBBHBB", 0xF921, 4, clear is not None, 0, clear or 0, 0)
    return control + b"\x2c" + struct.pack("<4HBB", left, top, width, height, 0, 2) + blocks + b"\0"


def gif(width, height, *frames):
    """Colours 0 to 2 are red, green and blue."""
    palette = b"\xff\0\0\0\xff\0\0\0\xff\0\0\0"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x81, 2, 0) + palette + b"".join(frames) + b";"


GREEN, BLUE, WHITE = [0, 255, 0], [0, 0, 255], [255, 255, 255]


@pytest.mark.parametrize(
    ("screen", "place", "size"),
    [
        ((0, 0), (0, 0, 6, 4), (6, 4)),
        ((0, 0), (2, 3, 6, 4), (8, 7)),
        ((3, 3), (0, 0, 6, 4), (6, 4)),
        ((8, 8), (5, 6, 6, 4), (11, 10)),
        ((8, 8), (2, 2, 3, 3), (8, 8)),
        ((0, 9), (0, 0, 6, 4), (6, 9)),
    ],
)
def test_a_screen_is_as_large_as_its_first_frame_needs(screen, place, size):
    """The sizes are Chromium's. What no frame covers is transparent, whatever the background colour."""
    left, top, width, height = place
    expected = np.full((size[1], size[0], 3), 255, np.uint8)
    expected[top : top + height, left : left + width] = GREEN
    assert np.array_equal(ours(gif(*screen, frame(*place, 1))), expected)


def test_stray_bytes_between_the_blocks_of_a_gif_are_passed_over():
    data = gif(3, 3, b"\0\x07", frame(0, 0, 6, 4, 1), b"\0" * 9, frame(0, 0, 6, 4, 2))
    assert (read_header(data).width, read_header(data).height) == (6, 4) == Image.open(io.BytesIO(data)).size
    assert (ours(data) == GREEN).all()
    ended = read_header(gif(3, 3, b";", frame(0, 0, 6, 4, 1)))
    assert (ended.width, ended.height) == (3, 3)


def test_of_a_gif_the_first_frame_that_shows_anything_is_taken():
    clear = frame(0, 0, 4, 4, 1, clear=1)
    shown = ours(gif(4, 4, clear, clear, frame(1, 1, 5, 2, 2), frame(0, 0, 4, 4, 1)))
    assert shown[0, 0].tolist() == WHITE and shown[1, 1].tolist() == shown[2, 3].tolist() == BLUE
    assert why(gif(4, 4, clear)) is why(gif(4, 4, clear, frame(0, 0, 99, 99, 1))) is Drop.TRANSPARENT


def test_a_gif_is_whole_without_its_end_and_truncated_without_a_pixel():
    data = gif(4, 4, frame(0, 0, 4, 4, 1))
    for whole in (data[:-1], data[:-2]):
        assert (ours(whole) == GREEN).all()
    assert why(data[:-8]) is Drop.TRUNCATED


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF", "TIFF", "ICO"])
def test_what_is_transparent_throughout_is_no_white_image(form):
    image = photo(32, 32)
    image.putalpha(0)
    assert why(encoded(image, form)) is Drop.TRANSPARENT
    image.putalpha(Image.fromarray(np.eye(32, dtype=np.uint8) * 255))
    assert ours(encoded(image, form)).min() < 200


# --- formats decoded in a process of their own ------------------------------------------------------------------------

ISOLATED = {
    **{f"AVIF {mode}": ("AVIF", mode, {}) for mode in ("RGB", "RGBA", "L")},
    **{f"TIFF {mode}": ("TIFF", mode, {}) for mode in ("RGB", "RGBA", "L", "1", "P", "CMYK")},
    **{f"TIFF {kind}": ("TIFF", "RGB", {"compression": kind}) for kind in ("tiff_lzw", "jpeg", "tiff_adobe_deflate")},
    **{f"JPEG2000 {mode}": ("JPEG2000", mode, {}) for mode in ("RGB", "RGBA", "L")},
    "JPEG2000 stream": ("JPEG2000", "RGB", {"no_jp2": True}),
    **{f"ICO {mode}": ("ICO", mode, {"sizes": [(32, 32), (16, 16)]}) for mode in ("RGB", "RGBA")},
    "ICO of BMP": ("ICO", "RGBA", {"sizes": [(32, 32)], "bitmap_format": "bmp"}),
    **{f"PPM {mode}": ("PPM", mode, {}) for mode in ("RGB", "L", "1")},
    **{f"BMP {mode}": ("BMP", mode, {}) for mode in ("RGB", "RGBA", "L", "1", "P")},
}


@pytest.mark.parametrize("name", ISOLATED)
def test_other_formats_are_pillows(name):
    form, mode, options = ISOLATED[name]
    image = photo()
    if mode == "RGBA":
        image.putalpha(Image.fromarray(np.tile(np.arange(120, dtype=np.uint8) * 2, (90, 1))))
    data = encoded(image.convert(mode), form, **options)
    assert np.abs(ours(data).astype(int) - pillows(data)).max() <= 1


# 32 x 16 pixels, red and blue, by pillow-heif, whose encoder is under the GPL: so the file, not the encoder.
HEIC = (
    "c-muNV30{GsVvAy%}izhg51nBLl8SRGck>Ufw3kxwIq=N0u(b+a*CjAhJwuG5(YG&l$nzcHpIn&fe{FSfN=qY27;?Vtelydmj>p6L`8v|R3<"
    "1dqb%7F#N;c;EXjo{`IA{tQ~;#!WELdn1L;zrGG|6+kkACMBDoI?fBydX!N9=JoB-4z;lRkl`2Rmh0W(MiGYHA;Vsc0XN@_YWGNQ>WP-tYG_"
    "G;a%XAcw?9B5!*;AsE}w<G~ov$-%HEI!x?v_m*KKc^@!Ii~_B%FDn8RKg&VSzM3`^_T+`Yb56+f*hs*b-MtF{{R2~10c-=q%VMIka$66MJ7l"
    "iGY1C;kdnwO$c2S5FxXfdnV4Byfb6@uDT$ykzNo>tp7TWdpIes7;r0LTHP`>YotjY}wd&FK|7#uh{aa%8|4-xOpMLu<oLr@MNd3se*^6UWFW"
    "=k4`{b}da+-9k#a|5*vt8E?I4{4#Vk3R^@7gDP!pDm0<F8)ZYtQY*s+l`Gz3kVfM=Myirq#S@KJ)AEy4i7tp$}7?SG{DBzr!?Rd!odKZ9CTp"
    "UFYmv_sj8&o!yBYmg)<$V{BNnC05zYR}c%)x==Yke(PE>@8c2~%My0|tUI5pop#-UeMjjQzFF_SME-iC66zsg`*_DO!++-_IUZ>M05K7~aR"
)


def test_heif_is_decoded():
    pixels = ours(zlib.decompress(base64.b85decode(HEIC)))
    assert pixels.shape == (16, 32, 3)
    assert np.abs(pixels[:, :12].astype(int) - [254, 0, 0]).max() < 8
    assert np.abs(pixels[:, 20:].astype(int) - [0, 0, 254]).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["AVIF", "TIFF"])
def test_other_formats_are_turned_upright(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), form, exif=exif)
    assert np.array_equal(ours(data), pillows(data))


@pytest.mark.parametrize("form", ["TIFF", "PPM", "PNG"])
def test_16_bits_become_8(form):
    grey = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    data = encoded(Image.fromarray(grey), form)
    assert np.array_equal(ours(data)[:, :, 0], np.round(grey / 257))


def test_numbers_without_a_white_are_no_image():
    for mode in ("F", "I"):
        assert why(encoded(photo().convert(mode), "TIFF")) is Drop.DECODE


@pytest.mark.parametrize("form", ["AVIF", "TIFF", "JPEG2000", "ICO", "PPM", "BMP"])
def test_half_a_file_of_another_format_is_refused(form):
    data = encoded(photo(), form)
    with pytest.raises((ImageError, AssertionError)):  # the latter: not even a header
        ours(data[: len(data) // 2])


@pytest.mark.long
def test_a_file_that_takes_too_long_ends_its_decoder_and_the_next_gets_another(monkeypatch):
    """Twenty megabytes of run-length codes that move by nothing; Pillow reads each in Python, for 10 s."""
    head = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 54 + 1024) + struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 1, *[0] * 5)
    monkeypatch.setattr(isolated, "_CPU_S", 0.2)
    assert why(head + bytes(1024) + b"\0\2\0\0" * 5_000_000) is Drop.DECODE
    good = encoded(photo(), "BMP")
    assert np.array_equal(ours(good), pillows(good))


def test_memory_of_a_decoder_is_limited():
    """A TIFF of 64 x 64 pixels in one tile of 55,008 x 55,008."""
    tags = [(256, 64), (257, 64), (258, 8), (259, 8), (262, 1), (322, 55_008), (323, 55_008), (324, 122), (325, 50)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    assert why(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + bytes(50)) is Drop.DECODE

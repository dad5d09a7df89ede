"""What is cut off an image or refused before it is decoded, and what looks like it and must come through."""

from __future__ import annotations

import io
import json
import struct

import bombs
import numpy as np
import pytest
from PIL import Image

from infra.images.errors import ImageError
from infra.images.guard import gif_frames, png_to_decode
from infra.images.header import read_header
from infra.schema import Drop
from pipelines.images.resize import Resizing, resize

AS_IT_IS = Resizing(encode_format="png", encode_quality=1)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def refused(data: bytes, reason: Drop = Drop.DECODE) -> bool:
    with pytest.raises(ImageError) as error:
        resize(data, Resizing())
    return error.value.reason is reason


def test_scans_are_counted_where_the_picture_is():
    """Not in a thumbnail before it, nor in a video behind it."""
    data = bombs.picture("JPEG", progressive=True)
    thumbnail = b"\xff\xe2" + struct.pack(">H", 20_002) + b"\xff\xda\0\x08" * 5000
    dressed = data[:2] + thumbnail + data[2:] + b"\xff\xda\0\x08" * 5000
    assert resize(dressed, Resizing()).data == resize(data, Resizing()).data


def test_a_jpeg_that_sends_each_colour_by_itself():
    data = bombs.jpeg_of_sequential_scans(0, 100)
    assert read_header(data).passes and not read_header(bombs.HEALTHY_IMAGE).passes
    assert np.array_equal(pixels(resize(data, AS_IT_IS).data), pixels(data))
    assert refused(bombs.jpeg_of_sequential_scans(64, 100))


def test_exif_that_leads_in_circles_is_none():
    sane = resize(bombs.jpeg_with(bombs.exif_in_circles(1, 8)), Resizing()).exif
    assert len(json.loads(sane)) == 9
    assert resize(bombs.jpeg_with(bombs.exif_in_circles(9, 8)), Resizing()).exif == "{}"


def test_a_png_may_inflate_to_its_pixels_and_some_more(monkeypatch):
    monkeypatch.setattr("infra.images.guard._MAX_SURPLUS", 0)
    noise = bombs.picture("PNG")
    assert resize(noise, Resizing()).width == 96
    assert refused(bombs.png_with_more_behind_its_pixels(1))
    broken = bombs.flipped(bombs.png_with_more_behind_its_pixels(1), 60)
    assert refused(broken)


def test_gigabytes_behind_the_pixels_are_not_inflated():
    assert refused(bombs.png_with_more_behind_its_pixels(2100))


def test_parts_are_looked_through_up_to_a_number():
    assert refused(bombs.png(64, 64, bombs.png_chunk(b"tEXt", b"") * 300_000))
    with pytest.raises(ImageError):
        resize(b"\xff\xd8" + b"\xff\xfe\0\2" * 300_000 + bombs.HEALTHY_IMAGE[2:], Resizing())


def test_of_a_png_only_what_makes_its_pixels_is_left():
    plain, full = bombs.png(96, 64), bombs.png_with_texts(80)
    assert png_to_decode(full, read_header(full)) == png_to_decode(plain, read_header(plain)) == (plain, ())


def test_a_decoder_never_hears_of_more_bytes_than_there_are():
    palette = bombs.png_with_a_long_chunk(b"PLTE")
    with pytest.raises(ImageError):
        png_to_decode(palette, read_header(palette))
    pixels = bombs.png_with_a_long_chunk(b"IDAT")
    assert len(png_to_decode(pixels, read_header(pixels))[0]) < len(pixels) + 20


def test_of_a_gif_one_frame_at_a_time_is_decoded():
    data = bombs.gif(64, 64, (9, 9), (8, 8), (65535, 1), (7, 7))
    frames = list(gif_frames(data, read_header(data)))
    assert [(frame.width, frame.height) for frame in frames] == [(9, 9), (8, 8), (7, 7)]  # one is too large
    assert all(
        frame.data == bombs.gif(*size, size) for frame, size in zip(frames, [(9, 9), (8, 8), (7, 7)], strict=True)
    )
    endless = bombs.gif(64, 64, *[(8, 8)] * 1000)
    assert len(list(gif_frames(endless, read_header(endless)))) == 32


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_half_a_file_is_no_picture(form):
    whole = bombs.picture(form)
    for size in range(40, len(whole) - 20, 97):
        assert refused(whole[:size], Drop.TRUNCATED)


_WHOLE = {
    **{f"{form} {mode}": bombs.picture(form, mode) for form in ("JPEG", "PNG", "BMP") for mode in ("RGB", "L", "1")},
    **{f"{form} P": bombs.picture(form, "P") for form in ("PNG", "GIF", "BMP")},
    **{f"{form} RGBA": bombs.picture(form, "RGBA") for form in ("PNG", "WEBP")},
    "JPEG CMYK": bombs.picture("JPEG", "CMYK"),
    "JPEG progressive": bombs.picture("JPEG", progressive=True),
    "WEBP": bombs.picture("WEBP"),
    "WEBP lossless": bombs.picture("WEBP", lossless=True),
    "GIF of two frames": bombs.picture("GIF")[:-1] + bombs.picture("GIF")[13 + 768 :],
    "GIF87a": b"GIF87a" + bombs.picture("GIF")[6:],
}


@pytest.mark.parametrize("name", _WHOLE)
def test_a_file_cut_at_any_byte_is_an_image_or_an_image_error(name):
    """Every length of the first 600 bytes, where all headers and tables lie, and every 97th behind them."""
    data = _WHOLE[name]
    cuts = [*range(min(600, len(data))), *range(600, len(data), 97), len(data)]
    for encoded in ("jpg", "png", "webp"):
        options = Resizing(32, encode_format=encoded, encode_quality=9, skip_reencode=True)
        for cut in cuts if encoded == "jpg" else cuts[::7]:
            try:
                assert resize(data[:cut], options).width
            except ImageError as error:
                assert error.reason and error.message and cut < len(data)


def test_a_gif_that_ends_behind_its_size():
    """Ten bytes are enough to tell the size, and too few for what comes next."""
    for version in (b"GIF87a", b"GIF89a"):
        for rest in range(4):
            assert refused(version + struct.pack("<HH", 64, 48) + b"\xf7\0\0"[:rest], Drop.TRUNCATED)

"""The pixels that open_clip sees of a file, for all who give them to a model: training, tests, scores, search.

open_clip's loader opens a file with Pillow and converts it to RGB, as CLIP_benchmark does. So orientation tags are
ignored, alpha is dropped, of an animation the first frame counts, and 16-bit grey is clipped to 8 bits, not scaled: a
model is used as it was made. Faster decoders are taken where they give the same pixels. Two things are ours: an image
whose pixels are not all there is refused, where Pillow might fill it up, and formats that open_clip leaves out are
decoded upright on white.
"""

from __future__ import annotations

import io
from dataclasses import replace

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from infra.images.decode import MAX_PIXELS, decode, decode_rgb
from infra.images.errors import ImageError
from infra.images.formats import OPEN_CLIP
from infra.images.header import read_header
from infra.schema import Drop

__all__ = ["check_size", "decode_like_open_clip", "read_like_open_clip"]

_GREY_16 = (16, 0)  # depth and colour type in a PNG's header


def check_size(data: bytes) -> None:
    """Raise ImageError for what is no image, or one of more than :data:`MAX_PIXELS`, before a pixel is decoded."""
    header = read_header(data)
    if header is None:
        raise ImageError(Drop.NOT_AN_IMAGE)
    if header.width * header.height > MAX_PIXELS:
        raise ImageError(Drop.AREA, f"{header.width} x {header.height} pixels, of at most {MAX_PIXELS}")


def read_like_open_clip(data: bytes) -> Image.Image:
    """Decode an image of at most :data:`MAX_PIXELS` for Pillow. Raises ImageError."""
    check_size(data)
    return Image.fromarray(decode_like_open_clip(data))


def decode_like_open_clip(data: bytes, min_side: int | None = None) -> NDArray[np.uint8]:
    """Decode an image in any accepted format to RGB (h, w, 3). Raises ImageError.

    With ``min_side``, a JPEG at least twice as large as that is decoded at half, a quarter or an eighth of its size,
    which costs a fraction; width and height stay at least ``min_side`` pixels.
    """
    if not data.startswith(OPEN_CLIP):
        return decode_rgb(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data, min_side)
    if tuple(data[24:26]) == _GREY_16 and data.startswith(b"\x89PNG"):
        return _by_pillow(data)
    try:
        encoded = np.frombuffer(data, np.uint8)
        bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # empty data, or more pixels than OpenCV allows
        bgr = None
    if bgr is None:
        raise ImageError(Drop.DECODE)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _jpeg(data: bytes, min_side: int | None) -> NDArray[np.uint8]:
    # 7/8 of the size takes twice as long as all of it.
    size = {} if min_side is None else {"min_height": min_side, "min_width": min_side, "min_factor": 2}
    try:
        colours = simplejpeg.decode_jpeg_header(data)[2]
        if colours not in ("CMYK", "YCCK"):
            rgb: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", **size)
            return rgb
        simplejpeg.decode_jpeg(data, "CMYK")  # are all pixels there?
        return _by_pillow(data)
    except (ValueError, KeyError):  # damage in its head that does not matter, a missing end mark, or worse
        header = read_header(data)
        if header is None or header.format != "jpeg":
            raise ImageError(Drop.DECODE) from None
        image = decode(data, replace(header, exif=b""))
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB).astype(
            np.uint8, copy=False
        )


def _by_pillow(data: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ImageError(Drop.DECODE) from None

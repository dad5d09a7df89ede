"""Check, resize and encode an image, compatible with img2dataset's resizer.

Sizes, messages and encoder settings are img2dataset's, tested against it. Different on purpose:

- size, area and aspect ratio are checked from the header, before decoding
- a large JPEG is decoded at half, a quarter or an eighth of its size, as long as that leaves 1.75 times the target, and
  an image between 1.75 and 3.5 times the target is shrunk in two cheap steps: half the time, a PSNR of at least 38 dB
  (tests/benchmarks/download.py)
- Exif orientation is applied, so photos are upright; sizes are those of the upright image
- decoding (:mod:`infra.images.decode`) makes nothing up: images that are not all there, or not to be seen, are refused,
  and 16-bit images are scaled to 8 bits (img2dataset makes them white)
"""

from __future__ import annotations

import io
import json
import math
import struct
import threading
from contextlib import nullcontext
from dataclasses import dataclass

import cv2

from infra.images.decode import Pixels, decode
from infra.images.errors import ImageError
from infra.images.header import Header, read_header
from infra.schema import Drop

__all__ = ["Resized", "Resizing", "resize"]

_HEADROOM = 1.75  # times the target: a JPEG decoded at less than that loses visible detail
_LARGE = 25_000_000  # pixels; larger ones are resized one at a time: two of 100 megapixels may need 3 GB
_one_large = threading.Lock()
_EXIF_READS = 20_000  # reads of Exif tags, at most: directories can refer to one another without end
_EXIF_BYTES = 1 << 18
_FORMAT = {"jpg": "jpeg", "png": "png", "webp": "webp"}
_ENCODER = {"jpg": cv2.IMWRITE_JPEG_QUALITY, "png": cv2.IMWRITE_PNG_COMPRESSION, "webp": cv2.IMWRITE_WEBP_QUALITY}


@dataclass(frozen=True)
class Resizing:
    """img2dataset's options of the same names; sides in pixels, areas in square pixels."""

    image_size: int = 256
    resize_mode: str = "keep_ratio"
    resize_only_if_bigger: bool = True
    min_image_size: int = 0
    max_image_area: float = float("inf")
    max_aspect_ratio: float = float("inf")
    encode_format: str = "jpg"
    encode_quality: int = 95
    skip_reencode: bool = False
    extract_exif: bool = True


@dataclass(frozen=True)
class Resized:
    """An encoded image with its size and that of the original, both upright, in pixels."""

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    exif: str | None


def resize(data: bytes, options: Resizing) -> Resized:
    """The image in ``data``, resized and re-encoded. Raises ImageError."""
    header = check_header(data, options)
    with _one_large if header.width * header.height > _LARGE else nullcontext():
        return _resized(data, header, options)


def _resized(data: bytes, header: Header, options: Resizing) -> Resized:
    width, height = _upright(header)
    target = _target(width, height, options)
    image = decode(data, header, at_least=_enough(target) if target else None)
    if target:
        image = _fitted(image, target, options, shrink=_side(width, height, options) > options.image_size)
    if target or not (options.skip_reencode and _is_finished(data, header, options)):
        data = _encoded(image, options)
    return Resized(data, image.shape[1], image.shape[0], width, height, _exif(header) if options.extract_exif else None)


def check_header(data: bytes, options: Resizing) -> Header:
    """The header of ``data`` if the image is within the limits. Raises ImageError."""
    header = read_header(data)
    if header is None:
        raise ImageError(Drop.NOT_AN_IMAGE)
    short, long = sorted((header.width, header.height))
    if short < options.min_image_size:
        raise ImageError(Drop.TOO_SMALL, "image too small")
    if short * long > options.max_image_area:
        raise ImageError(Drop.AREA, "image area too large")
    if long / short > options.max_aspect_ratio:
        raise ImageError(Drop.ASPECT, "aspect ratio too large")
    return header


def _upright(header: Header) -> tuple[int, int]:
    return (header.height, header.width) if header.turned else (header.width, header.height)


def _is_finished(data: bytes, header: Header, options: Resizing) -> bool:
    """True if the file can be kept as it is: of the wanted format, upright, without alpha."""
    alpha = {
        "png": data[25] & 4 or b"tRNS" in data[:4096],  # colour type of IHDR; transparency of a palette or a colour
        "webp": (data[12:16] == b"VP8X" and data[20] & 0x10) or (data[12:16] == b"VP8L" and data[24] & 0x10),
    }
    wanted = header.format == _FORMAT[options.encode_format]
    return wanted and header.orientation == 1 and not alpha.get(header.format, False)


def _target(width: int, height: int, options: Resizing) -> tuple[int, int] | None:
    """Width and height to scale to, before any crop or border; None to leave the image as it is."""
    side = _side(width, height, options)
    if options.resize_mode == "no" or (options.resize_only_if_bigger and side <= options.image_size):
        return None
    scale = options.image_size / side
    return max(1, round(width * scale)), max(1, round(height * scale))


def _side(width: int, height: int, options: Resizing) -> int:
    """Length of the side that is resized to ``image_size``."""
    return max(width, height) if options.resize_mode in ("border", "keep_ratio_largest") else min(width, height)


def _enough(target: tuple[int, int]) -> tuple[int, int]:
    """The smallest size to decode at without a visible loss in the result."""
    return math.ceil(_HEADROOM * target[0]), math.ceil(_HEADROOM * target[1])


def _shrunk(image: Pixels, target: tuple[int, int]) -> Pixels:
    """Shrink by the mean of the area below each pixel, or something that looks the same.

    OpenCV is fast at that only for a factor of two, so an image near it is resized to it first. Below it, four
    neighbours are the whole area.
    """
    factor = min(image.shape[1] / target[0], image.shape[0] / target[1])
    if factor < _HEADROOM:
        return cv2.resize(image, target, interpolation=cv2.INTER_LINEAR)
    if factor <= 2 * _HEADROOM:
        image = cv2.resize(image, (2 * target[0], 2 * target[1]), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(image, target, interpolation=cv2.INTER_AREA)


def _fitted(image: Pixels, target: tuple[int, int], options: Resizing, *, shrink: bool) -> Pixels:
    if (image.shape[1], image.shape[0]) != target:
        image = _shrunk(image, target) if shrink else cv2.resize(image, target, interpolation=cv2.INTER_LANCZOS4)
    if options.resize_mode == "center_crop":
        return _cropped(image, options.image_size)
    return _padded(image, options.image_size) if options.resize_mode == "border" else image


def _cropped(image: Pixels, side: int) -> Pixels:
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def _padded(image: Pixels, side: int) -> Pixels:
    height, width = side - image.shape[0], side - image.shape[1]
    borders = (height // 2, height - height // 2, width // 2, width - width // 2)
    return cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def _encoded(image: Pixels, options: Resizing) -> bytes:
    settings = [_ENCODER[options.encode_format], options.encode_quality]
    done, data = cv2.imencode(f".{options.encode_format}", image, settings)
    if not done:  # larger than the format allows, as a WebP of more than 16,383 pixels a side
        raise ImageError(Drop.AREA, "image area too large")
    return data.tobytes()


def _exif(header: Header) -> str:
    """The tags as img2dataset's JSON; ``{}`` if there are none."""
    if not header.exif:
        return "{}"
    import exifread

    try:
        tags = exifread.process_file(_Limited(header.exif), details=False)
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error):
        return "{}"  # exifread raises any of these at damaged directories
    return json.dumps({name: str(value).strip() for name, value in tags.items() if value is not None})


class _Limited(io.BytesIO):
    """Exif data with a limit on reads and bytes: directories can refer to one another, thousands to the same."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads, self._bytes = _EXIF_READS, _EXIF_BYTES

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        self._reads -= 1
        self._bytes -= len(found)
        if self._reads < 0 or self._bytes < 0:
            raise ValueError("an Exif block refers to itself without end")
        return found

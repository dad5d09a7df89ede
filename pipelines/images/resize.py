"""Decode, check, resize and encode an image, compatible with img2dataset's resizer.

Sizes, messages and encoder settings are img2dataset's, tested against it. Different on purpose:

- size, area and aspect ratio are checked from the header, before decoding
- a large JPEG is decoded at half, a quarter or an eighth of its size, as long as that leaves 1.75 times the target, and
  an image between 1.75 and 3.5 times the target is shrunk in two cheap steps: half the time, a PSNR of at least 38 dB
  (tests/benchmarks/download.py)
- Exif orientation is applied, so photos are upright; sizes are those of the upright image
- 16-bit images are scaled to 8 bits (img2dataset makes them white)
- a truncated JPEG is refused, not filled up with grey

The same: alpha is composited on white, palette and CMYK become RGB, grey stays grey, of an animation the first frame is
taken.
"""

from __future__ import annotations

import io
import json
import math
import struct
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from infra.schema import Drop
from pipelines.images.guard import guarded
from pipelines.images.header import Header, read_header

__all__ = ["ImageError", "Resized", "Resizing", "decode", "resize"]

Pixels = NDArray[Any]  # uint8; OpenCV's own annotations are wider

cv2.setNumThreads(1)  # OpenCV ignores OMP_NUM_THREADS; a worker owns one core
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors go into the image's row, not to stderr

_HEADROOM = 1.75  # times the target: a JPEG decoded at less than that loses visible detail
_LARGE = 25_000_000  # pixels; larger ones are resized one at a time: two of 100 megapixels may need 3 GB
_one_large = threading.Lock()
_STRIP = 1 << 18  # pixels converted to 8 bits without alpha at a time: whole copies would take most of the memory
_EXIF_READS = 20_000  # reads of Exif tags, at most: directories can refer to one another without end
_EXIF_BYTES = 1 << 18
_FORMAT = {"jpg": "jpeg", "png": "png", "webp": "webp"}
_ENCODER = {"jpg": cv2.IMWRITE_JPEG_QUALITY, "png": cv2.IMWRITE_PNG_COMPRESSION, "webp": cv2.IMWRITE_WEBP_QUALITY}


class ImageError(Exception):
    """The bytes are not a usable image: our reason, and img2dataset's message for it."""

    def __init__(self, reason: Drop, message: str = "Image decoding error") -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message


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
    if len(data) < header.least:
        raise ImageError(Drop.TRUNCATED)
    return header


def decode(data: bytes, header: Header, *, at_least: tuple[int, int] | None = None) -> Pixels:
    """Upright pixels: (height, width, 3) BGR or (height, width) grey, uint8. Raises ImageError.

    ``at_least``: width and height, upright, from which the image will be shrunk. A larger JPEG is then decoded at a
    smaller scale, but not below that, and with the faster transform, whose errors the shrinking averages out.
    """
    needed = guarded(data, header)
    if needed is None:
        raise ImageError(Drop.DECODE)
    if header.format == "jpeg":
        image = _decode_jpeg(needed, header, at_least)
    else:
        image = _decode_gif(needed) if header.format == "gif" else _decode(needed)
    return _turned(image, header.orientation)


def _decode_jpeg(data: bytes, header: Header, at_least: tuple[int, int] | None) -> Pixels:
    try:
        space = simplejpeg.decode_jpeg_header(data, strict=False)[2]
    except ValueError:
        raise ImageError(Drop.DECODE) from None
    except KeyError:  # a subsampling it has no name for
        return _decode(data)
    if space in ("CMYK", "YCCK"):
        return _decode(data)
    options: dict[str, Any] = {"colorspace": "GRAY" if space == "Gray" else "BGR", **_scale(header, at_least)}
    try:
        image = simplejpeg.decode_jpeg(data, **options)
    except ValueError as error:
        if "Premature end" in str(error):
            raise ImageError(Drop.TRUNCATED) from None
        # Stray bytes and the like, which every browser ignores.
        try:
            image = simplejpeg.decode_jpeg(data, strict=False, **options)
        except ValueError:
            raise ImageError(Drop.DECODE) from None
    pixels: Pixels = image[:, :, 0] if image.shape[2] == 1 else image
    return pixels


def _scale(header: Header, at_least: tuple[int, int] | None) -> dict[str, Any]:
    """Options to decode a JPEG that will be shrunk: the smallest scale that libjpeg-turbo has vector code for."""
    if at_least is None:
        return {}
    width, height = reversed(at_least) if header.turned else at_least
    for part in (8, 4, 2, 1):
        scaled = -(-header.width // part), -(-header.height // part)
        if scaled[0] >= width and scaled[1] >= height:
            return {"min_width": scaled[0], "min_height": scaled[1], "fastdct": True, "fastupsample": True}
    return {}


def _decode(data: bytes) -> Pixels:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(Drop.DECODE)
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError(Drop.DECODE)
    alpha = image.ndim == 3 and image.shape[2] == 4
    if image.dtype == np.uint8 and not alpha:
        return image
    result = np.empty((*image.shape[:2], 3) if alpha else image.shape, np.uint8)
    rows = max(1, _STRIP // image.shape[1])
    for top in range(0, image.shape[0], rows):
        strip = image[top : top + rows]
        if image.dtype == np.uint16:
            strip = cv2.convertScaleAbs(strip, alpha=1 / 257)
        result[top : top + rows] = _on_white(strip) if alpha else strip
    return result


def _decode_gif(data: bytes) -> Pixels:
    """Decode by Pillow, for whose decoder clearing the code table costs nothing. ``data`` has one frame."""
    from PIL.GifImagePlugin import GifImageFile

    try:
        with GifImageFile(io.BytesIO(data)) as image:
            places = np.asarray(image)
            shades = image.getpalette() or [shade for shade in range(256) for _ in "rgb"]
            clear = image.info.get("transparency")
    except (OSError, SyntaxError, ValueError):
        raise ImageError(Drop.DECODE) from None
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(shades) // 3] = np.reshape(shades, (-1, 3))[:, ::-1]
    if clear is not None:
        colours[clear] = 255
    pixels: Pixels = colours[places]
    return pixels


def _on_white(image: Pixels) -> Pixels:
    alpha = image[:, :, 3]
    colour = cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    if alpha.min() == 255:
        return colour
    opacity = cv2.merge([alpha] * 3)
    return cv2.add(cv2.multiply(colour, opacity, scale=1 / 255), 255 - opacity)


def _turned(image: Pixels, orientation: int) -> Pixels:
    if orientation in (2, 5, 7):
        image = cv2.flip(image, 1)
    elif orientation == 4:
        image = cv2.flip(image, 0)
    if orientation == 3:
        return cv2.rotate(image, cv2.ROTATE_180)
    if orientation in (5, 8):
        return cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)
    if orientation in (6, 7):
        return cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)
    return image


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

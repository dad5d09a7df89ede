"""Image files to upright pixels without alpha, within limits: what downloads, training and evaluation see of a file.

Alpha is composited on white, palette and CMYK become RGB, grey stays grey, 16 bits become 8. Of an animation the
first frame is taken, of a GIF the first that shows anything. Nothing is made up: an image whose pixels are not all
there is an error, and so is one that is transparent throughout.
"""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from infra.images import isolated, jpeg
from infra.images.errors import ImageError
from infra.images.guard import GifFrame, gif_frames, jpeg_to_decode, png_to_decode
from infra.images.header import Header, read_header
from infra.schema import Drop

__all__ = ["MAX_PIXELS", "Pixels", "decode", "decode_rgb"]

MAX_PIXELS = 64 << 20
"""Of an image that somebody trains or evaluates on."""

Pixels = NDArray[Any]  # uint8; OpenCV's own annotations are wider

cv2.setNumThreads(1)  # OpenCV ignores OMP_NUM_THREADS; a worker owns one core
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors go into the image's row, not to stderr

_STRIP = 1 << 18  # pixels converted to 8 bits without alpha at a time: whole copies would take most of the memory
_MISSING = ("premature end", "Premature end", "instead of RST")  # in libjpeg's warnings
_OF_HEADS = ("extraneous bytes", "JFIF", "ICC")  # may be
_HARMLESS = ("Inconsistent progression", "Adobe color transform", "Invalid SOS parameters")


def decode(data: bytes, header: Header, *, at_least: tuple[int, int] | None = None) -> Pixels:
    """Upright pixels: (height, width, 3) BGR or (height, width) grey, uint8. Raises ImageError.

    ``at_least``: width and height, upright, from which the image will be shrunk. A larger JPEG is then decoded at a
    smaller scale, but not below that, and with the faster transform, whose errors the shrinking averages out.
    """
    if len(data) < header.least:
        raise ImageError(Drop.TRUNCATED)
    if header.format == "jpeg":
        needed, whole = jpeg_to_decode(data, header)
        try:
            image = _decode_jpeg(needed, header, at_least)
        except ImageError:
            if not whole and header.frame and header.frame.is_progressive:  # cut within the tables of a later scan
                raise ImageError(Drop.TRUNCATED) from None
            raise
        if not whole:
            raise ImageError(Drop.TRUNCATED)
    elif header.format == "png":
        image = _plain(*_decode_png(data, header))
    elif header.format == "gif":
        image = _decode_gif(data, header)
    elif header.format == "webp":
        image = _plain(_decode(data))
    else:
        image = _plain(isolated.pixels(header.format, data, (header.width, header.height)))
    return _turned(image, header.orientation)


def decode_rgb(data: bytes) -> NDArray[np.uint8]:
    """Upright pixels of a file in any accepted format: (height, width, 3) RGB, uint8. Raises ImageError."""
    header = read_header(data)
    if header is None:
        raise ImageError(Drop.NOT_AN_IMAGE)
    if header.width * header.height > MAX_PIXELS:
        raise ImageError(Drop.AREA, f"{header.width} x {header.height} pixels, of at most {MAX_PIXELS}")
    image = decode(data, header)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB).astype(
        np.uint8, copy=False
    )


# --- JPEG -------------------------------------------------------------------------------------------------------------


def _decode_jpeg(data: bytes, header: Header, at_least: tuple[int, int] | None) -> Pixels:
    count = len(header.frame.components) if header.frame else 0
    if count in (1, 3):
        image = _decode_strictly(data, {"colorspace": "GRAY" if count == 1 else "BGR", **_scale(header, at_least)})
        return image[:, :, 0] if count == 1 else image
    _decode_strictly(data, {"colorspace": "CMYK"})  # are all pixels there?
    return _decode(data)


def _decode_strictly(data: bytes, options: dict[str, Any]) -> Pixels:
    """Decode a JPEG whose pixels are all there; what is wrong with its head does not matter."""
    pixels, warning = _decode_or_warn(data, options)
    if pixels is None and any(sign in warning for sign in _OF_HEADS):
        pixels, warning = _decode_or_warn(jpeg.cleaned(data), options)
    if pixels is None:
        if not any(sign in warning for sign in _HARMLESS) and not jpeg.stray_bytes(warning, data):
            raise ImageError(Drop.DECODE)
        pixels, _ = _decode_or_warn(data, {"strict": False, **options})
    assert pixels is not None
    return pixels


def _decode_or_warn(data: bytes, options: dict[str, Any]) -> tuple[Pixels | None, str]:
    """Pixels, or what libjpeg has to say first. Raises ImageError if pixels are missing, or if it has more to say."""
    try:
        return simplejpeg.decode_jpeg(data, **options), ""
    except ValueError as error:
        warning = str(error)
    if any(sign in warning for sign in _MISSING):
        raise ImageError(Drop.TRUNCATED)
    if not options.get("strict", True):
        raise ImageError(Drop.DECODE)
    return None, warning


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


# --- other formats ----------------------------------------------------------------------------------------------------


def _decode_png(data: bytes, header: Header) -> tuple[Pixels, tuple[int, ...]]:
    """Pixels as stored, and the colour that is transparent, by channel; empty if none is."""
    needed, clear = png_to_decode(data, header)
    image = _decode(needed)
    if not clear:
        return image, ()
    depth = data[24]
    scale = 255 // ((1 << depth) - 1) if depth < 8 else 1  # OpenCV widens bits to bytes
    mask = (1 << depth) - 1
    return image, tuple((value & mask) * scale for value in reversed(clear))


def _decode(data: bytes) -> Pixels:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise ImageError(Drop.DECODE)
    return image


def _decode_gif(data: bytes, header: Header) -> Pixels:
    """Decode the first frame that shows anything, in its place on a white screen."""
    frame = None
    for frame in gif_frames(data, header):
        pixels, shown = _decode_gif_frame(frame)
        height = min(frame.height, header.height - frame.top)
        width = min(frame.width, header.width - frame.left)
        if height <= 0 or width <= 0 or not shown[:height, :width].any():
            continue
        if (width, height) == (header.width, header.height):
            return pixels[:height, :width]
        screen = np.full((header.height, header.width, 3), 255, np.uint8)
        screen[frame.top : frame.top + height, frame.left : frame.left + width] = pixels[:height, :width]
        return screen
    raise ImageError(Drop.TRANSPARENT if frame else Drop.DECODE)


def _decode_gif_frame(frame: GifFrame) -> tuple[Pixels, Pixels]:
    """BGR on white, and which pixels are not transparent. By Pillow: clearing the code table costs it nothing."""
    from PIL.GifImagePlugin import GifImageFile

    try:
        with GifImageFile(io.BytesIO(frame.data)) as image:
            places = np.asarray(image)
            shades = image.getpalette() or [shade for shade in range(256) for _ in "rgb"]
            clear = image.info.get("transparency")
    except OSError as error:
        raise ImageError(Drop.TRUNCATED if "truncated" in str(error) else Drop.DECODE) from None
    except (SyntaxError, ValueError):
        raise ImageError(Drop.DECODE) from None
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(shades) // 3] = np.reshape(shades, (-1, 3))[:, ::-1]
    shown = np.ones(256, bool)
    if clear is not None:
        colours[clear], shown[clear] = 255, False
    return colours[places], shown[places]


# --- pixels -----------------------------------------------------------------------------------------------------------


def _plain(image: Pixels, clear: tuple[int, ...] = ()) -> Pixels:
    """Pixels of 8 bits without alpha, on white; those of the colour ``clear`` are transparent. Raises ImageError."""
    alpha = image.ndim == 3 and image.shape[2] == 4
    if image.dtype == np.uint8 and not alpha and not clear:
        return image
    result = np.empty((*image.shape[:2], 3) if alpha else image.shape, np.uint8)
    rows = max(1, _STRIP // image.shape[1])
    shown = False
    for top in range(0, image.shape[0], rows):
        strip = image[top : top + rows]
        hidden = _equal(strip, clear) if clear else None
        if image.dtype == np.uint16:
            strip = cv2.convertScaleAbs(strip, alpha=1 / 257)
        result[top : top + rows] = _on_white(strip) if alpha else strip
        if hidden is not None:
            result[top : top + rows][hidden] = 255
        shown = shown or bool(strip[:, :, 3].any() if alpha else hidden is None or not hidden.all())
    if not shown:
        raise ImageError(Drop.TRANSPARENT)
    return result


def _equal(image: Pixels, colour: tuple[int, ...]) -> Pixels:
    """Mask of the pixels of that colour: (height, width) bool."""
    if image.ndim == 2:
        return np.equal(image, colour[0])
    return np.asarray(np.equal(image, colour).all(axis=2))


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

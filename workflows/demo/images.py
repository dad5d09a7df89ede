"""The bytes of every image on the embedded web, in the formats and encodings found on real sites."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from workflows.demo.drawing import render
from workflows.demo.website import Image

__all__ = ["draw", "encode"]

_QUALITY = 90
_ORIENTATION_6 = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)


def draw(image: Image) -> bytes:
    """The complete file of ``image``; the server cuts it where the response is broken."""
    if image.kind == "bomb":
        return _bomb()
    side = image.original or min(image.width, image.height)
    pixels = render(image.scene, side)
    if pixels.shape[:2] != (image.height, image.width):
        pixels = cv2.resize(pixels, (image.width, image.height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    match image.kind:
        case "rotated":
            jpeg = encode(cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE), "jpeg")
            return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(_ORIENTATION_6) + 2) + _ORIENTATION_6 + jpeg[2:]
        case "progressive":
            return encode(pixels, "jpeg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
        case "cmyk" | "palette" | "alpha":
            return _by_pillow(pixels, image.kind)
        case "corrupt":
            return _corrupt(encode(pixels, "jpeg"), image.scene.seed)
        case "stub":
            jpeg = encode(pixels, "jpeg")
            return jpeg[: len(jpeg) // 2]
    return encode(pixels, image.format)


def encode(pixels: Any, form: str, *options: int) -> bytes:  # noqa: ANN401 - cv2 types arrays loosely
    """RGB pixels, uint8, as a JPEG, PNG or WebP file."""
    settings = {
        "jpeg": (cv2.IMWRITE_JPEG_QUALITY, _QUALITY),
        "png": (cv2.IMWRITE_PNG_COMPRESSION, 1),
        "webp": (cv2.IMWRITE_WEBP_QUALITY, _QUALITY),
    }[form]
    return cv2.imencode(f".{form}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [*settings, *options])[1].tobytes()


def _by_pillow(pixels: NDArray[np.uint8], kind: str) -> bytes:
    """The encodings that OpenCV does not write."""
    image, out = PIL.Image.fromarray(pixels), io.BytesIO()
    if kind == "cmyk":
        image.convert("CMYK").save(out, "JPEG", quality=_QUALITY)
    elif kind == "palette":
        image.quantize(64, method=PIL.Image.Quantize.FASTOCTREE).save(out, "PNG", compress_level=1)
    else:
        alpha = PIL.Image.new("L", image.size, 0)
        rim = max(1, image.width // 40)  # transparent, as screenshots of windows have it
        alpha.paste(255, (rim, rim, image.width - rim, image.height - rim))
        image.putalpha(alpha)
        image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _corrupt(jpeg: bytes, seed: int) -> bytes:
    """A JPEG that is noise from its first Huffman table on: the size can be read, the image cannot."""
    start = jpeg.index(b"\xff\xc4") + 4
    return jpeg[:start] + random.Random(seed).randbytes(len(jpeg) - start)


def _bomb() -> bytes:
    """A PNG of a few bytes that claims 30,000 x 30,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )

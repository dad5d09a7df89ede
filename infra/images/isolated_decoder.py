"""The program that decodes what :mod:`infra.images.isolated` sends it, by Pillow. It may be killed at any time.

It answers each question with a JSON object, followed by pixels if it has a ``mode``. Nothing of clipline is imported,
so that it starts in a tenth of a second.
"""

from __future__ import annotations

import io
import json
import resource
import struct
import sys
from typing import Any

import pi_heif
from PIL import AvifImagePlugin, Image, ImageOps

MAX_MEMORY = 3 << 30  # bytes of addresses: three times what 100 megapixels of 4 bytes take, and the libraries
STRIP = 1 << 18  # pixels
ORIENTATION = 0x0112
PILLOW = {
    "avif": ("AVIF",),
    "bmp": ("BMP",),
    "heif": ("HEIF",),
    "ico": ("ICO", "CUR"),
    "jpeg2000": ("JPEG2000",),
    "ppm": ("PPM",),
    "tiff": ("TIFF",),
}
"""Pillow's decoders for our names of formats."""

DAMAGED = (
    *(ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, SyntaxError, TypeError, ValueError),
    struct.error,
)
"""What Pillow's decoders raise at damaged files."""

PLAIN = ("RGB", "CMYK", "YCbCr", "HSV", "RGBX")
ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Image.MAX_IMAGE_PIXELS = None  # the limits are those of the process, and the caller's
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pi_heif.register_heif_opener()
    pi_heif.options.DECODE_THREADS = 1
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while head := source.read(12):
        size, length = struct.unpack("<IQ", head)
        question = json.loads(source.read(size))
        answer(question, source.read(length), sink)
        sink.flush()


def answer(question: dict[str, Any], data: bytes, sink: Any) -> None:  # noqa: ANN401 - a buffered writer
    limit_cpu(question["cpu_s"])
    try:
        image = opened(question["format"], data)
        if question["what"] == "header":
            say(sink, known(image))
            return
        image = upright(image)
    except MemoryError:
        say(sink, {"error": "memory", "reason": "image_area_too_large"})
    except DAMAGED as error:
        cut = "truncated" in str(error) or "Truncated" in str(error)
        say(sink, {"error": str(error), "reason": "truncated" if cut else "decode_failed"})
    else:
        if (image.width, image.height) != tuple(question["size"]) or (mode := mode_of(image)) is None:
            say(sink, {"error": f"{image.mode}, {image.size}", "reason": "decode_failed"})
            return
        say(sink, {"mode": mode, "width": image.width, "height": image.height})
        write(image, mode, sink)


def limit_cpu(seconds: float) -> None:
    """Allow this file so many seconds; beyond them the kernel ends the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    allowed = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.RLIM_INFINITY))


def opened(form: str, data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=PILLOW[form])


def known(image: Image.Image) -> dict[str, Any]:
    """Size, upright, and Exif data of an image that is not decoded yet."""
    width, height = image.size
    if image.format != "TIFF" and image.getexif().get(ORIENTATION, 1) >= 5:  # Pillow turns TIFFs itself
        width, height = height, width
    exif = bytes(image.info.get("exif") or b"").removeprefix(b"Exif\0\0")
    return {"width": width, "height": height, "exif": exif.hex()}


def upright(image: Image.Image) -> Image.Image:
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def mode_of(image: Image.Image) -> str | None:
    """The form to send the pixels in; None for pixels that have no brightest value, such as those of maps."""
    if image.mode in ("1", "L"):
        return "L"
    if image.mode == "P":
        return "BGRA" if "transparency" in image.info else "BGR"
    if image.mode in PLAIN:
        return "BGR"
    if image.mode in ALPHA:
        return "BGRA"
    if image.mode == "I" and image.format == "PPM":  # 0 to 65,535
        return "I;16"
    return image.mode if image.mode in ("I;16", "I;16B") else None


def write(image: Image.Image, mode: str, sink: Any) -> None:  # noqa: ANN401 - a buffered writer
    """Write the pixels strip by strip: whole copies would take most of the memory."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if mode in ("BGR", "BGRA"):
            sink.write(strip.convert("RGB" if mode == "BGR" else "RGBA").tobytes("raw", mode))
        else:
            sink.write((strip if strip.mode == mode else strip.convert(mode)).tobytes())


def say(sink: Any, what: dict[str, Any]) -> None:  # noqa: ANN401 - a buffered writer
    told = json.dumps(what).encode()
    sink.write(struct.pack("<I", len(told)) + told)


if __name__ == "__main__":
    main()

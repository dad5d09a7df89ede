"""Formats whose decoders trust the file, decoded in a process of their own with limits on memory and CPU time.

An AVIF of 64 x 64 pixels can hold 16,384 x 16,384 or a million hidden frames, a TIFF can point anywhere: what such a
file costs can't be told without decoding it. So a process that may fail does it (:mod:`infra.images.isolated_decoder`),
one for each thread that asks; the next file gets a new one. The limits are several times what real files need, so the
answer is the same on every machine.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from infra.images import isolated_decoder
from infra.images.errors import ImageError
from infra.schema import Drop

__all__ = ["format_of", "header", "pixels"]

_PROGRAM = Path(isolated_decoder.__file__)  # imported, so that an edit of it is drift
_CPU_S = 5.0  # a file, and for each megapixel; JPEG 2000, the slowest, takes a third
_CPU_S_PER_MEGAPIXEL = 0.4
_TYPES = {"L": ("u1", 1), "BGR": ("u1", 3), "BGRA": ("u1", 4), "I;16": ("<u2", 1), "I;16B": (">u2", 1)}
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "heif"),
}
_MAGIC = {
    "bmp": (b"BM",),
    "tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "ico": (b"\0\0\1\0", b"\0\0\2\0"),
    "jpeg2000": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    "ppm": tuple(b"P%d%c" % (kind, space) for kind in range(1, 7) for space in b" \t\r\n"),
}


def format_of(data: bytes) -> str | None:
    """The format that the first bytes tell, of those decoded here."""
    if data[4:8] == b"ftyp":
        brands = [data[at : at + 4] for at in (8, *range(16, min(int.from_bytes(data[:4], "big"), 256), 4))]
        found = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        return "avif" if "avif" in found else found[0] if found else None
    return next((form for form, starts in _MAGIC.items() if data.startswith(starts)), None)


def header(form: str, data: bytes) -> tuple[int, int, bytes] | None:
    """Width, height, both upright, and Exif data; None if they cannot be read. Raises ImageError beyond the limits."""
    answer, _ = _ask("header", form, data)
    if "error" in answer:
        return None
    return answer["width"], answer["height"], data if form == "tiff" else bytes.fromhex(answer["exif"])


def pixels(form: str, data: bytes, size: tuple[int, int]) -> NDArray[Any]:
    """Upright pixels, (height, width) grey or (height, width, 3 or 4) BGR(A), of 8 or 16 bits. Raises ImageError.

    ``size``: width and height, from :func:`header`.
    """
    answer, found = _ask("pixels", form, data, size)
    if found is None:
        raise ImageError(Drop(answer["reason"]))
    return found


def _ask(
    what: str, form: str, data: bytes, size: tuple[int, int] = (0, 0)
) -> tuple[dict[str, Any], NDArray[Any] | None]:
    decoder: _Decoder | None = getattr(_process, "decoder", None)
    if decoder is None:
        decoder = _process.decoder = _Decoder()
    seconds = _CPU_S + _CPU_S_PER_MEGAPIXEL * size[0] * size[1] / 1e6
    try:
        return decoder.ask({"what": what, "format": form, "size": size, "cpu_s": seconds}, data)
    except (OSError, EOFError, struct.error):
        _process.decoder = None
        raise ImageError(Drop.DECODE) from None  # it was ended by a limit, or crashed


_process = threading.local()


class _Decoder:
    """A decoder in a process of its own, which ends with the object."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", str(_PROGRAM)]  # -P: modules beside the program are not its own
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdin and self._process.stdout
        self._to: IO[bytes] = self._process.stdin
        self._from: IO[bytes] = self._process.stdout

    def ask(self, question: dict[str, Any], data: bytes) -> tuple[dict[str, Any], NDArray[Any] | None]:
        """The answer, and the pixels if it has any. Raises OSError or EOFError if the process ends before that."""
        asked = json.dumps(question).encode()
        self._to.write(struct.pack("<IQ", len(asked), len(data)) + asked)
        self._to.write(data)
        self._to.flush()
        (size,) = struct.unpack("<I", self._from.read(4))
        answer = json.loads(self._from.read(size))
        if "mode" not in answer:
            return answer, None
        kind, channels = _TYPES[answer["mode"]]
        shape = (answer["height"], answer["width"], channels)
        found = np.empty(shape if channels > 1 else shape[:2], kind)
        left = found.data.cast("B")
        while left:
            if not (count := self._from.readinto(left)):  # type: ignore[attr-defined]
                raise EOFError
            left = left[count:]
        return answer, found.astype(found.dtype.newbyteorder("="), copy=False)

    def __del__(self) -> None:
        self._process.kill()
        for pipe in (self._to, self._from):
            with suppress(OSError):  # what was not written yet
                pipe.close()
        self._process.wait()

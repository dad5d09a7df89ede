"""Thumbnails of images: small enough to travel, large enough to read the words on a slide.

A thumbnail shows what is within the border of an image, and knows where that lies: so a framed copy and its original
have the same, and a page with a line of words shows the words. Of an image with a border it shows the whole, too: where
a border ends is chance if what it surrounds is faint.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.curate.dedup.keys import Region

__all__ = ["COARSE", "SIDE", "View", "inner_box", "thumbnail"]

Array = NDArray[Any]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels

SIDE = 96  # cells: words on a slide are some three cells high
COARSE = 32  # cells, where places are tried
_QUALITY = 80
_HEAD = struct.Struct("<6HI")  # the frame in shares of 65,535, its size in pixels, bytes of the JPEG

_UNIFORM = 24  # levels that the pixels of a border differ in at most
_MOST = 0.45  # of a side that may be border
_RIM = 2  # pixels
_BLOCK = 8  # pixels that JPEG encodes together
_SOFT = 9  # cells over which colours are averaged


def inner_box(grey: Array) -> Box:
    """The box within a uniform border, or within nested ones: a black frame around a white one.

    What surrounds nothing but a colour is no border: of a flag with stripes only the middle one would be left.
    """
    left, top, right, bottom = 0, 0, grey.shape[1], grey.shape[0]
    rim = 0  # of a border within another one, where both are mixed
    for _ in range(3):
        inner = grey[top + rim : bottom - rim, left + rim : right - rim]
        above, below = _border(inner, 1)
        before, after = _border(inner[above : inner.shape[0] - below], 0)
        small = min(right - left - before - after, bottom - top - above - below) < 16 + 2 * rim
        if small or not (above or below or before or after):
            break
        left, top, right, bottom = (
            left + before + rim * (before > 0),
            top + above + rim * (above > 0),
            right - after - rim * (after > 0),
            bottom - below - rim * (below > 0),
        )
        rim = _RIM
    if _is_plain(grey[top:bottom, left:right]):
        return 0, 0, grey.shape[1], grey.shape[0]
    return left, top, right, bottom


def _is_plain(grey: Array) -> bool:
    """True if there is nothing but a colour, but for what JPEG's blocks smear over the edges."""
    down, across = (min(_BLOCK, side // 4) for side in grey.shape)
    return bool(np.ptp(grey[down : grey.shape[0] - down, across : grey.shape[1] - across]) <= _UNIFORM)


def _border(grey: Array, axis: int) -> tuple[int, int]:
    """Uniform lines at the begin and at the end, rows (``axis`` 1) or columns (0)."""
    lines = grey if axis else grey.T
    if min(np.ptp(lines[0]), np.ptp(lines[-1])) > _UNIFORM:
        return 0, 0
    low, high = (cv2.reduce(grey, axis, kind).ravel().astype(int) for kind in (cv2.REDUCE_MIN, cv2.REDUCE_MAX))
    counts = []
    for lows, highs in ((low, high), (low[::-1], high[::-1])):
        spread = np.maximum.accumulate(highs) - np.minimum.accumulate(lows)
        count = int(np.searchsorted(spread, _UNIFORM, side="right"))
        counts.append(count if count < len(lows) * _MOST else 0)
    return counts[0], counts[1]


def thumbnail(image: Array, box: Box) -> bytes:
    """A thumbnail of what ``box`` shows of ``image``, (height, width, 3) BGR, and behind it one of the whole if that is
    more. Each is 16 bytes and a JPEG, some 2.5 kB."""
    height, width = image.shape[:2]
    whole = (0, 0, width, height)
    return b"".join(_packed(image, one) for one in dict.fromkeys([box, whole]))


def _packed(image: Array, box: Box) -> bytes:
    """The thumbnail of one box."""
    left, top, right, bottom = box
    height, width = image.shape[:2]
    cells = cv2.resize(image[top:bottom, left:right], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", cells, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    frame = (left / width, top / height, right / width, bottom / height)
    return _HEAD.pack(*(round(65535 * share) for share in frame), right - left, bottom - top, len(jpeg)) + jpeg


@dataclass(frozen=True)
class View:
    """A thumbnail, decoded."""

    frame: Region  # of the image, within the border
    size: tuple[int, int]  # of the frame, pixels of the stored image
    cells: Array  # (SIDE, SIDE, 3) BGR
    rest: bytes = b""  # of the whole image, if the frame is less, encoded
    is_mirrored: bool = False

    @classmethod
    def of(cls, data: bytes) -> View:
        *frame, width, height, size = _HEAD.unpack_from(data)
        left, top, right, bottom = (share / 65535 for share in frame)
        cells = cv2.imdecode(np.frombuffer(data, np.uint8, size, _HEAD.size), cv2.IMREAD_COLOR)
        assert cells is not None
        return cls((left, top, right, bottom), (width, height), cells, data[_HEAD.size + size :])

    @cached_property
    def whole(self) -> View:
        """All of the image."""
        if not self.rest:
            return self
        whole = View.of(self.rest)
        return whole.mirrored if self.is_mirrored else whole

    @property
    def mirrored(self) -> View:
        left, top, right, bottom = self.frame
        cells = np.ascontiguousarray(self.cells[:, ::-1])
        return View((1 - right, top, 1 - left, bottom), self.size, cells, self.rest, not self.is_mirrored)

    @cached_property
    def grey(self) -> Array:
        return cv2.cvtColor(self.cells, cv2.COLOR_BGR2GRAY).astype(np.float32)

    @cached_property
    def coarse(self) -> Array:
        return cv2.resize(self.grey, (COARSE, COARSE), interpolation=cv2.INTER_AREA)

    @cached_property
    def colours(self) -> Array:
        """Blue and red against grey, softened: (SIDE, SIDE, 2)."""
        chroma = cv2.cvtColor(self.cells, cv2.COLOR_BGR2YCrCb)[:, :, 1:].astype(np.float32) - 128
        return cv2.blur(chroma, (_SOFT, _SOFT))

    @cached_property
    def is_grey(self) -> bool:
        return float(np.abs(self.colours).max()) < 8

    def soft(self, blur: float) -> Array:
        return cv2.GaussianBlur(self.grey, (0, 0), blur)

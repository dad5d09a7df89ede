"""Keys of an image: 64-bit hashes by which copies of it find each other, cropped, framed and marked ones, too.

A key is made as pHash is, of the 8 x 8 lowest frequencies of the picture or of a part; an image has several, and two
are compared if any of their keys differ in a few bits only. Each kind of copy shares one:

- the whole picture, with and without its border: re-encoded, scaled and framed copies
- the picture without a strip at one side or at all, as if it had been cropped: cropped copies, and those with a bar
- its halves: copies with a logo or a mark, which the other half does not have
- the mirrored picture, on demand

pHash's bits are whether a frequency is above the median of all. In symmetric and simple pictures half of them are zero,
and their bits noise: of 250 drawings 8% were lost by JPEG alone. So a key's bit is whether a frequency is above zero by
more than noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CROPS", "FEW", "MOST", "SIDE", "WHOLE", "Region", "keys"]

SIDE = 64  # of the squares that keys are made of, pixels
FEW, MOST = 2, 17  # keys of an image, about: of the whole picture only, and with those of its parts

Array = NDArray[Any]
Region = tuple[float, float, float, float]  # left, top, right, bottom in shares of the sides
Regions = tuple[Array, Array, Array]

WHOLE: Region = (0, 0, 1, 1)
_STRIP = 0.055  # the crops found best; those of half and twice that are within a key's tolerance
CROPS: tuple[Region, ...] = (
    (_STRIP, _STRIP, 1 - _STRIP, 1 - _STRIP),
    (0.025, 0.025, 0.975, 0.975),
    (0.1, 0.1, 0.9, 0.9),
    (_STRIP, 0, 1, 1),
    (0, _STRIP, 1, 1),
    (0, 0, 1 - _STRIP, 1),
    (0, 0, 1, 1 - _STRIP),
)
_BARS: tuple[Region, ...] = ((0, 0.08, 1, 1), (0, 0, 1, 0.92))  # above and below, from 3% to 9%
_HALVES: tuple[Region, ...] = ((0, 0, 0.55, 1), (0.45, 0, 1, 1), (0, 0, 1, 0.55), (0, 0.45, 1, 1))
_NOISE = 0.04  # of the root mean square of the frequencies
_FLAT = 0.3  # root mean square of the frequencies, levels, below which a part shows nothing

# Left halves match left halves only: the bits of each kind are turned over by a pattern of its own.
_PATTERNS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)


def keys(whole: Array, inner: Array, *, crops: bool = True, mirrored: bool = False) -> tuple[list[int], list[int]]:
    """The distinct keys of a picture, at least one, and the others of its parts, both in ascending order.

    ``whole``, ``inner``: the picture and what its border surrounds, each in grey shrunk to (SIDE, SIDE).
    """
    squares = [whole, inner, *([whole[:, ::-1], inner[:, ::-1]] if mirrored else [])]
    own = {key for square in squares for key in _hashes(square, _WHOLE)} or {0}
    parts = {*_hashes(whole, _PARTS_OF_WHOLE), *_hashes(inner, _PARTS_OF_INNER)} - own if crops else set()
    return sorted(own), sorted(parts)


def _hashes(square: Array, regions: Regions) -> list[int]:
    """The hash of each region that shows anything."""
    vertical, horizontal, patterns = regions
    rows = (vertical.reshape(-1, SIDE) @ square.astype(np.float32)).reshape(vertical.shape)
    low = (rows @ horizontal).reshape(-1, 64)
    low[:, 0] = 0  # brightness
    rms = np.sqrt(np.square(low).mean(axis=1))
    bits = np.packbits(low > _NOISE * rms[:, None], axis=1)
    hashes = bits.view(">u8")[:, 0].astype(np.uint64) ^ patterns
    return [int(key) for key, shows in zip(hashes, rms > _FLAT, strict=True) if shows]


def _transforms(regions: Sequence[Region], patterns: Sequence[int]) -> Regions:
    """Matrices that shrink each region of a square to 32 x 32 and take its lowest frequencies: (n, 8, SIDE) and
    (n, SIDE, 8); and what is done to its bits, (n,) uint64."""
    cosines = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(32) + 1) / 64) / 32
    vertical = [cosines @ _shrinking(top, bottom) for _, top, _, bottom in regions]
    horizontal = [(cosines @ _shrinking(left, right)).T for left, _, right, _ in regions]
    return np.stack(vertical).astype(np.float32), np.stack(horizontal).astype(np.float32), np.array(patterns, np.uint64)


def _shrinking(low: float, high: float) -> Array:
    """The matrix that averages the pixels between two shares of a side into 32: (32, SIDE)."""
    edges = np.linspace(low * SIDE, high * SIDE, 33)
    begins, ends = np.maximum(edges[:-1, None], np.arange(SIDE)), np.minimum(edges[1:, None], np.arange(SIDE) + 1)
    return np.asarray(np.clip(ends - begins, 0, None) / (edges[1] - edges[0]))


_WHOLE = _transforms([WHOLE], [0])
_PARTS_OF_INNER = _transforms(CROPS, [0] * len(CROPS))
_PARTS_OF_WHOLE = _transforms([*CROPS, *_BARS, *_HALVES], [*[0] * len(CROPS + _BARS), *_PATTERNS])

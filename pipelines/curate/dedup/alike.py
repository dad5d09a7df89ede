"""Verification of near duplicates: do two thumbnails show the same picture?

Keys only find candidates: slides of one template, dialogs of one program and other words on one photo have the same.
A pair counts if its pictures, laid over each other, differ nowhere by more than noise:

1. *Places.* Inner picture on inner picture, whole on whole, or as if one were cropped (:mod:`.places`).
2. *Tones.* Brightness and contrast are fitted, and the strength of colours; a grey picture is compared in grey.
3. *Differences.* Window by window, what is left is compared with what the pictures show there. Where a copy is merely
   blurred or half a cell off, little is left of much; where words differ, as much is left as there is.

A difference in one corner, and nowhere else, is taken for a logo or a mark. The numbers were set on the odd half of Tux
Paint's stamps and of openclipart (tests/benchmarks/near_duplicates.py), and measured on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.curate.dedup.places import as_sharp, correlation, find_place, keeps_aspect, lay, refine
from pipelines.curate.dedup.thumbnails import SIDE, View

__all__ = ["same"]

Array = NDArray[Any]

_WINDOW, _EDGE = 9, 4  # cells
_AGREES = 0.9  # correlation of two pictures that may be the same
_SEEN = 0.6  # least share of a picture's detail that lies within the other
_ADDED = 8  # cells of a strip at a side that may have been added: a bar, a frame
_LEVELS, _UNEXPLAINED, _ABOVE_NOISE = 6.0, 0.3, 15.0  # what makes a window differ
_UNSEEN = 3.0  # levels, root mean square of a window
_STRAIGHT = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
_NOISE = 0.12  # of the contrast: what a copy may differ by everywhere
_SHARE = 0.006  # of windows that may differ
_CORNER, _MARK = 0.32, 0.05  # of a side and of the area: where a logo may be, and how large
_TRIMMED = 0.02  # of a side: frames differ by more
_COLOUR = 28.0  # levels of difference in colour
_NEUTRAL, _TINTED, _GROUND = 2.0, 5.5, 0.15  # levels of colour, and the share of a picture that is its ground


def same(one: bytes, others: Sequence[bytes], *, mirrored: bool = False) -> Array:
    """Compare thumbnail ``one`` with each of ``others``; True where they show the same picture: (n,) bool.

    ``mirrored``: or its mirror image. Places are looked for, and tones fitted, from ``one`` to the other, which near a
    threshold may end otherwise than the other way round: so the caller must not leave to chance which is ``one``.
    """
    view = View.of(one)
    faces = [view, view.mirrored] if mirrored else [view]
    return np.array([other == one or any(_same(face, View.of(other)) for face in faces) for other in others], bool)


def _same(one: View, other: View) -> bool:
    # Where the border of a faint picture ends is chance: then what is within it is not the same, but the whole is.
    apart = np.abs(np.subtract(one.frame, other.frame)).max() > _TRIMMED
    return _fits(one, other) or (bool(apart) and _fits(one.whole, other.whole))


def _fits(one: View, other: View) -> bool:
    if max(one.grey.std(), other.grey.std()) < 4:  # nothing but a colour
        return bool(np.abs(one.cells.mean(axis=(0, 1)) - other.cells.mean(axis=(0, 1))).max() < _COLOUR)
    if _equal(one, other):
        return True
    place = find_place(one, other)
    if place is None:
        return False
    template, image = as_sharp(one, other, place)
    if _agree(one, other, template, image, place):
        return True
    refined = refine(template, image, place)
    return refined is not None and _agree(one, other, template, image, refined)


def _equal(one: View, other: View) -> bool:
    """True if no window differs by what anyone could see: of most re-encoded copies no more needs to be asked."""
    if not keeps_aspect(one, other, _STRAIGHT):
        return False
    left = cv2.blur(np.square(one.grey - other.grey), (_WINDOW, _WINDOW))
    return bool(left.max() <= _UNSEEN**2) and bool(np.abs(one.colours - other.colours).max() <= _COLOUR / 2)


# --- differences ------------------------------------------------------------------------------------------------------


def _agree(one: View, other: View, template: Array, image: Array, mapping: Array) -> bool:
    """True if the pictures are the same where ``mapping`` lays one over the other."""
    laid, covered = lay(image, mapping)
    if not keeps_aspect(one, other, mapping) or _resemblance(template, laid, covered) < _AGREES:
        return False
    if min(_seen(template, covered), _seen(image, lay(template, _inverse(mapping))[1])) < _SEEN:
        return False
    covered = _shrunk(covered, 1)  # of the outermost cells a part may be border
    where = _shrunk(covered, _EDGE - 1)
    if not where.any():
        return False
    if _other_ground(one, other, mapping):
        return False
    differs = (_differs(template, laid, covered, where) | _differs_in_colour(one, other, mapping)) & where
    return bool(differs.sum() <= _SHARE * where.sum()) or _is_mark(differs)


def _resemblance(one: Array, other: Array, where: Array) -> float:
    """:func:`correlation`, but for one corner if that is what makes it small: on a night's sky a logo outweighs the
    stars."""
    found = correlation(one, other, where)
    if found >= _AGREES:
        return found
    return max(found, *(correlation(one, other, where & ~corner) for corner in _corners()))


@cache
def _corners() -> tuple[Array, ...]:
    """Masks of the places in which a logo may be."""
    near = np.arange(SIDE) < _CORNER * SIDE
    return tuple(np.outer(rows, columns) for rows in (near, near[::-1]) for columns in (near, near[::-1]))


def _shrunk(where: Array, cells: int) -> Array:
    """The mask without its outermost cells; what is beyond the picture's edge is not of it."""
    return cv2.erode(where.astype(np.uint8), np.ones((2 * cells + 1,) * 2), borderValue=0).astype(bool)


def _inverse(mapping: Array) -> Array:
    return np.asarray(cv2.invertAffineTransform(mapping), np.float32)


def _seen(picture: Array, where: Array) -> float:
    """The share of a picture's detail that lies there, but for its outermost strips: these may have been added."""
    detail = np.abs(cv2.Sobel(picture, -1, 1, 0)) + np.abs(cv2.Sobel(picture, -1, 0, 1))
    inside = slice(_ADDED, SIDE - _ADDED)
    detail, where = detail[inside, inside], where[inside, inside]
    return float(detail[where].sum() / (detail.sum() + 1e-3))


def _differs(one: Array, other: Array, covered: Array, where: Array) -> Array:
    """Mask of cells that differ by more than noise, blur and a misplacement by part of a cell explain."""
    one, other = _same_tones(one, other, covered)
    left = cv2.blur(np.where(covered, np.square(one - other), 0).astype(np.float32), (_WINDOW, _WINDOW))
    shown = (_variance(one) + _variance(other)) / 2
    contrast = float(one[where].std())
    noise = min(_quantile(left[where], 0.7), (_NOISE * contrast) ** 2, _LEVELS**2)
    levels = np.clip(0.2 * contrast, 2, _LEVELS)
    return np.asarray(left > np.maximum(max(levels**2, _ABOVE_NOISE * noise), _UNEXPLAINED * shown))


def _quantile(values: Array, share: float) -> float:
    """A quantile without sorting all values, nor looking for numbers that are none."""
    place = int(share * (len(values) - 1))
    return float(np.partition(values, place)[place])


def _variance(picture: Array) -> Array:
    mean = cv2.blur(picture, (_WINDOW, _WINDOW))
    return np.asarray(cv2.blur(picture * picture, (_WINDOW, _WINDOW)) - mean * mean)


def _same_tones(one: Array, other: Array, covered: Array) -> tuple[Array, Array]:
    """Both pictures with the contrast of the stronger one, fitted where they agree best; too bright is white."""
    first, second = one[covered], other[covered]
    fits = np.ones(len(first), bool)
    gain, offset = 1.0, 0.0
    for _ in range(3):
        x, y = second[fits], first[fits]
        gain = float(((x - x.mean()) * (y - y.mean())).mean() / (x.var() + 1e-3))
        offset = float(y.mean() - gain * x.mean())
        left = np.abs(first - gain * second - offset)
        fits = left <= max(_quantile(left, 0.8), 2.0)
    if not 0.5 <= gain <= 2:
        gain, offset = 1.0, 0.0
    if gain > 1:
        return one, np.clip(gain * other + offset, 0, 255)
    return np.clip((one - offset) / gain, 0, 255), other


def _differs_in_colour(one: View, other: View, mapping: Array) -> Array:
    """Mask of cells that differ in colour, at equal strength of colours; empty if one picture is grey."""
    if one.is_grey or other.is_grey:
        return np.zeros((SIDE, SIDE), bool)
    first = one.colours
    second, covered = lay(other.colours, mapping)
    strength = float((first * second)[covered].sum() / (np.square(second[covered]).sum() + 1e-3))
    strength = float(np.clip(strength, 0.4, 2.5))
    left = first / strength - second if strength > 1 else first - strength * second
    return np.asarray(np.abs(left).max(axis=2) > _COLOUR)


def _other_ground(one: View, other: View, mapping: Array) -> bool:
    """True if a large part is neutral in one picture and tinted in the other: a card on white, and one on cream."""
    if one.is_grey or other.is_grey:
        return False
    laid, covered = lay(other.colours, mapping)
    first, second = (np.abs(colours).max(axis=2) for colours in (one.colours, laid))
    tinted = (np.minimum(first, second) < _NEUTRAL) & (np.maximum(first, second) > _TINTED) & covered
    return bool(tinted.sum() > _GROUND * covered.sum())


def _is_mark(differs: Array) -> bool:
    """True if all that differs is small and lies in one corner."""
    rows, columns = np.nonzero(differs)
    if len(rows) > _MARK * differs.size:
        return False
    near = _CORNER * SIDE
    return all(places.max(initial=0) < near or places.min(initial=SIDE) >= SIDE - near for places in (rows, columns))

"""Region features of an image, as an object detector leaves them: ``.npy`` members of a sample of a WebDataset tar.

- ``regions.npy`` (n, d): a feature of each region, those that the detector is surest of first
- ``boxes.npy`` (n, 4): left, top, right and bottom, in parts of the image's width and height
- ``classes.npy`` (n, c): the detector's probabilities, which a loss on masked regions asks for

It is what ViLBERT, UNITER and VinVL read in place of pixels. Arrays are of floats. Nothing is unpickled, and no memory
is taken for what a header claims: its array must have just the bytes that are there.
"""

from __future__ import annotations

import io
import tokenize
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from infra.formats.region_shape import BOXES, CLASSES, REGIONS, RegionShape

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Regions", "pack", "read_regions"]

_BEYOND = 0.01  # of the image: boxes that reach no further beyond it are cut
_SUM = 0.02  # probabilities may add up to so much more or less than 1: they are often kept in 16 bits
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# All that numpy raises for the text of a header, which it parses as Python's literals.
_NO_HEADER = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError)


class Regions(NamedTuple):
    """The n regions of an image, float32."""

    features: NDArray[np.float32]  # (n, d)
    boxes: NDArray[np.float32]  # (n, 4)
    classes: NDArray[np.float32] | None  # (n, c), each row adds up to 1


def read_regions(members: Mapping[str, bytes]) -> Regions:
    """Read the regions of an image from its members' contents, by extension; :data:`CLASSES` need not be there.

    Raises ValueError with what is wrong, in words that hold nothing of the sample but the shapes of its arrays.
    """
    if missing := [name for name in (REGIONS, BOXES) if name not in members]:
        raise ValueError(f"no {missing[0]}")
    arrays = {name: _array(members[name], name) for name in (REGIONS, BOXES, CLASSES) if name in members}
    count = len(arrays[REGIONS])
    if not count:
        raise ValueError("no regions")
    if other := [name for name, array in arrays.items() if len(array) != count]:
        raise ValueError(f"{other[0]} has more or fewer rows than {REGIONS}")
    boxes, classes = arrays[BOXES], arrays.get(CLASSES)
    if boxes.shape[1] != 4:
        raise ValueError(f"{BOXES} has {boxes.shape[1]} columns, not 4")
    if (boxes < -_BEYOND).any() or (boxes > 1 + _BEYOND).any():
        raise ValueError("a box reaches beyond the image: boxes are in parts of its width and height")
    boxes = boxes.clip(0, 1)
    if not (boxes[:, :2] < boxes[:, 2:]).all():
        raise ValueError("a box has no area: boxes are left, top, right, bottom")
    if classes is not None:
        sums = classes.sum(1, keepdims=True)
        if (classes < 0).any() or (abs(sums - 1) > _SUM).any():
            raise ValueError(f"{CLASSES} holds no probabilities: they add up to 1 in each row")
        classes = classes / sums
    return Regions(arrays[REGIONS], boxes, classes)


def pack(regions: Regions, shape: RegionShape) -> NDArray[np.float32]:
    """Return one table (rows, columns): feature, box, class probabilities. A row of zeros is no region.

    Of several pictures each has ``shape.most`` rows, with boxes in parts of its own width. Raises ValueError if the
    arrays have other widths.
    """
    parts = [(REGIONS, regions.features, shape.features), (BOXES, regions.boxes, 4)]
    if shape.classes:
        if regions.classes is None:
            raise ValueError(f"no {CLASSES}")
        parts.append((CLASSES, regions.classes, shape.classes))
    for name, array, width in parts:
        if array.shape[1] != width:
            raise ValueError(f"{name} has {array.shape[1]} columns, not {width}")
    table = np.zeros((shape.pictures, shape.most, shape.columns), np.float32)
    centres = regions.boxes[:, [0, 2]].mean(axis=1)
    picture = np.minimum((centres * shape.pictures).astype(int), shape.pictures - 1)
    for number, rows in enumerate(table):
        own = np.flatnonzero(picture == number)[: shape.most]
        np.concatenate([array[own] for _, array, _ in parts], axis=1, out=rows[: len(own)])
        sides = rows[: len(own), shape.features : shape.features + 4 : 2]  # left and right
        sides[:] = (sides * shape.pictures - number).clip(0, 1)
    return table.reshape(shape.rows, shape.columns)


def _array(data: bytes, name: str) -> NDArray[np.float32]:
    """Read a table of floats from a ``.npy`` file. Raises ValueError."""
    source = io.BytesIO(data)
    try:
        shape, by_columns, dtype = _HEADERS[np.lib.format.read_magic(source)](source)
    except (KeyError, *_NO_HEADER):
        raise ValueError(f"{name} is no .npy file") from None
    if len(shape) != 2 or dtype.kind != "f":
        raise ValueError(f"{name} is no table of floats")
    offset = source.tell()
    if min(shape) < 0 or shape[0] * shape[1] * dtype.itemsize != len(data) - offset:
        raise ValueError(f"{name} has other bytes than its header says")
    with np.errstate(over="ignore", invalid="ignore"):
        table = (
            np.frombuffer(data, dtype, offset=offset)
            .reshape(shape, order="F" if by_columns else "C")
            .astype(np.float32)
        )
    if not np.isfinite(table).all():
        raise ValueError(f"{name} holds a number that is not finite")
    return table

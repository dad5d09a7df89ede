"""Columns that are measured where a rule asks for them and no earlier stage has: once for a row, then they travel on.

``caption_language``: the likeliest language of the caption, ISO 639-1, null for none.
``image_bytes``: size of the stored file. ``image_entropy``: of its brightness, bits. ``image_sharpness``: variance of
the Laplacian of its brightness. ``image_solid``: share of the pixels that have the most frequent colour, to within 16
levels. The last three are measured on the stored image at a longer side of at most 256 pixels, so that thresholds mean
the same whatever size a download stores.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from infra.errors import DataError
from infra.rows import row_error
from infra.schema import Drop
from pipelines.curate.filter import texts
from pipelines.images.stored import decode_stored
from pipelines.layout import Images, find_images
from pipelines.tables import with_column

__all__ = ["MEASURED", "Measured", "measured", "pixel_measures"]

_SIDE = 256  # pixels of the longer side
_OF_PIXELS = ("image_entropy", "image_sharpness", "image_solid")
MEASURED = ("caption_language", "image_bytes", *_OF_PIXELS)


class Measured(NamedTuple):
    """``rows`` with the columns; ``reasons``: why an image could not be measured, or None; ``errors``: of rows."""

    rows: pa.Table
    reasons: Sequence[Drop | None]
    errors: list[str]


def measured(rows: pa.Table, names: Collection[str], images: Images, shard: int) -> Measured:
    """``rows`` of a shard with those of the columns ``names`` that can be measured and that they lack."""
    lacking = [name for name in MEASURED if name in names and name not in rows.column_names]
    reasons: list[Drop | None] = [None] * rows.num_rows
    errors: list[str] = []
    columns: dict[str, Any] = {}
    if "caption_language" in lacking:
        columns["caption_language"] = texts.language(rows["caption"])
    if of_images := [name for name in lacking if name.startswith("image_")]:
        pixels = any(name in _OF_PIXELS for name in of_images)
        columns |= _of_images(images, shard, rows["key"].to_pylist(), pixels, reasons, errors)
    for name, values in columns.items():
        rows = with_column(rows, name, values)
    return Measured(rows, reasons, errors)


def _of_images(
    images: Images, shard: int, keys: Sequence[str], pixels: bool, reasons: list[Drop | None], errors: list[str]
) -> dict[str, pa.Array]:
    """The columns of a shard's images, which are read front to back, one at a time; why some could not be measured is
    added to ``reasons`` and ``errors``."""
    sizes: list[int | None] = [None] * len(keys)
    values: list[tuple[float, float, float] | None] = [None] * len(keys)
    row_of = {key: row for row, key in enumerate(keys)}
    with images.tar(shard) as tar:
        places = find_images(tar, row_of)
        for key, (offset, size, _) in sorted(places.items(), key=lambda item: item[1]):
            row = row_of[key]
            sizes[row] = size
            if not pixels:
                continue
            tar.seek(offset)
            try:
                values[row] = pixel_measures(tar.read(size))
            except DataError:
                reasons[row] = Drop.DECODE
            except Exception as error:  # noqa: BLE001 - see infra.rows
                errors.append(row_error(error))
                reasons[row] = Drop.UNFORESEEN
    for key in row_of.keys() - places.keys():
        reasons[row_of[key]] = Drop.MISSING
    columns: dict[str, Any] = {"image_bytes": pa.array(sizes, pa.int64())}
    if pixels:
        for place, name in enumerate(_OF_PIXELS):
            columns[name] = pa.array([value and value[place] for value in values], pa.float64())
    return columns


def pixel_measures(data: bytes) -> tuple[float, float, float]:
    """Entropy, sharpness and largest share of one colour of an encoded image. Raises DataError."""
    image = decode_stored(data, (_SIDE, _SIDE))
    if (longer := max(image.shape[:2])) > _SIDE:
        size = tuple(max(1, round(side * _SIDE / longer)) for side in image.shape[1::-1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    shares = np.bincount(grey.ravel(), minlength=256) / grey.size
    entropy = -float((shares[shares > 0] * np.log2(shares[shares > 0])).sum())
    sharpness = float(cv2.Laplacian(grey, cv2.CV_64F).var())
    coarse = (image >> 4).astype(np.int32)
    colours = np.bincount((coarse[..., 0] << 8 | coarse[..., 1] << 4 | coarse[..., 2]).ravel())
    return abs(entropy), sharpness, float(colours.max() / grey.size)

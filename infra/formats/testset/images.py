"""Decode the images of test sets, which may be in any accepted format, and read their regions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from infra.errors import DataError
from infra.formats.region_shape import BOXES, REGIONS
from infra.images.errors import ImageError
from infra.schema import Drop

if TYPE_CHECKING:
    from PIL.Image import Image

    from infra.formats.regions import Regions

__all__ = ["decode_image", "decode_regions"]


def decode_image(data: bytes, key: str) -> Image:
    """Decode an image as RGB by :func:`infra.images.like_open_clip.decode_like_open_clip`, whatever format it has.

    Raises DataError, naming the sample ``key``; one that is too large before a pixel is decoded.
    """
    from infra.images.like_open_clip import read_like_open_clip  # loads numpy and OpenCV

    try:
        return read_like_open_clip(data)
    except ImageError as error:
        found = f"{error.reason}: {error.message}" if error.reason == Drop.AREA else str(error.reason)
        raise DataError(f"the image of sample {key!r} cannot be decoded", found=found) from error


def decode_regions(members: Mapping[str, bytes], key: str) -> Regions:
    """Read an image's regions from their members by extension. Raises DataError, naming the sample ``key``."""
    from infra.formats.regions import read_regions  # loads numpy

    try:
        return read_regions(members)
    except ValueError as error:
        raise DataError(
            f"the regions of sample {key!r} cannot be read", expected=f"{REGIONS} and {BOXES}", found=str(error)
        ) from None

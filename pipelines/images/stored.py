"""Decode images that a download has stored."""

from __future__ import annotations

from infra.errors import DataError
from infra.images.decode import Pixels, decode
from infra.images.errors import ImageError
from infra.images.header import read_header

__all__ = ["decode_stored"]


def decode_stored(data: bytes, at_least: tuple[int, int]) -> Pixels:
    """Decode an encoded image, (height, width) grey or (height, width, 3) BGR; a large JPEG at a smaller scale.

    ``at_least``: width and height, in pixels, that are enough. Raises DataError if the image cannot be read.
    """
    try:
        header = read_header(data)
        if header is None:
            raise DataError("a stored image is in no known format", found=repr(data[:16]))
        return decode(data, header, at_least=at_least)
    except ImageError as error:
        raise DataError("a stored image cannot be decoded", found=error.message) from None

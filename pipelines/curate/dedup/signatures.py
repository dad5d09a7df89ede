"""Signatures of images: what is known of each to find its copies."""

from __future__ import annotations

from typing import NamedTuple

import cv2

from pipelines.curate.dedup.keys import SIDE, keys
from pipelines.curate.dedup.thumbnails import inner_box, thumbnail
from pipelines.images.phash import grey_and_colours, phash

__all__ = ["Signature", "signature"]

_ENOUGH = (256, 256)  # pixels: more of an image would not be seen in a thumbnail


class Signature(NamedTuple):
    """Of an image. ``phash``: imagehash's; ``keys``, ``parts``: by which its copies find it, of the whole and of its
    parts; ``thumbnail``: to compare with."""

    phash: int
    keys: list[int]
    parts: list[int]
    thumbnail: bytes

    @property
    def all_keys(self) -> list[int]:
        return [*self.keys, *self.parts]


def signature(data: bytes, *, crops: bool = True, mirrored: bool = False) -> Signature:
    """The signature of an encoded image; ``crops`` and ``mirrored`` as in :func:`pipelines.curate.dedup.keys.keys`.

    Raises DataError if the image cannot be read.
    """
    grey, image = grey_and_colours(data, _ENOUGH)
    left, top, right, bottom = box = inner_box(grey)
    whole, inner = (
        cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for part in (grey, grey[top:bottom, left:right])
    )
    return Signature(phash(grey), *keys(whole, inner, crops=crops, mirrored=mirrored), thumbnail(image, box))

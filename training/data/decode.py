"""From encoded bytes to training pixels: decoding no larger than needed, CLIP's random crop, resizing.

The pixels match open_clip's own transform: libjpeg-turbo's exact decoding, and bicubic resizing with antialiasing,
which torch does with AVX2 in a sixth of Pillow's time. The two differ by 0.04 of 255 on average, and by 0.4 to 0.8
(above 43 dB) where a large JPEG is halved while it is decoded. Decoders and resizing release the GIL, and the Python
around them takes 20 us a sample, so threads are enough to feed a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.nn.functional import interpolate

from infra.images.errors import ImageError
from infra.images.like_open_clip import decode_like_open_clip

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CROP_DRAWS", "decode", "draw_crop", "resize"]

TRIES = 10
CROP_DRAWS = 2 * TRIES + 2
"""Random numbers that a crop needs."""

cv2.setNumThreads(0)  # the loader's threads are the parallelism


def decode(data: bytes, min_side: int) -> NDArray[np.uint8]:
    """Decode an image in any accepted format to RGB (h, w, 3).

    A JPEG at least twice as large as needed is decoded at half, a quarter or an eighth of its size, which costs a
    fraction of the full decoding; width and height stay at least ``min_side`` pixels. Orientation tags and alpha of
    JPEG, PNG and WebP are ignored, as in open_clip's preprocessing. Raises ValueError for damaged data.
    """
    try:
        return decode_like_open_clip(data, min_side)
    except ImageError as error:
        raise ValueError(f"the image cannot be decoded: {error.reason}") from error


def draw_crop(
    draws: Sequence[float], shape: tuple[int, ...], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return y, x, height and width of a random crop by torchvision's RandomResizedCrop rule.

    The crop's area is uniform in ``scale`` times the image's area, its width / height log-uniform in ``ratio``. If ten
    tries do not fit, or all of the image is asked for, it is the largest central crop within ``ratio``. ``draws`` are
    :data:`CROP_DRAWS` numbers, uniform in [0, 1).
    """
    height, width = shape[:2]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    # Of the whole area nothing but rounding could be drawn, a pixel more or less.
    for attempt in range(TRIES if scale[0] < 1 else 0):
        area = (scale[0] + (scale[1] - scale[0]) * draws[attempt]) * height * width
        aspect = math.exp(low + (high - low) * draws[TRIES + attempt])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(draws[-2] * (height - h + 1)), int(draws[-1] * (width - w + 1)), h, w
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(image: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Resize ``image`` to the size of ``out``, both (h, w, 3): bicubic with antialiasing."""
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # seen as channels-last, torch takes half the time
    resized = interpolate(pixels, out.shape[:2], mode="bicubic", antialias=True)
    out[:] = resized[0].permute(1, 2, 0).numpy()

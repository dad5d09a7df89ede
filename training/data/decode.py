"""Encoded bytes to training pixels: decoding no larger than needed, CLIP's random crop, resizing.

The pixels are those of open_clip's own transform: libjpeg-turbo's exact decoding, and bicubic resizing with
antialiasing, which torch does in AVX2 on whole pixels at a sixth of Pillow's time (0.04 of 255 between them on
average; 0.4 to 0.8, above 43 dB, where a large JPEG is halved while it is decoded). Decoders and resizing release the
interpreter's lock, and the Python around them takes 20 us a sample, so threads are enough to feed a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import simplejpeg
import torch
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CROP_DRAWS", "decode", "draw_crop", "resize"]

TRIES = 10
CROP_DRAWS = 2 * TRIES + 2
"""Random numbers that a crop takes."""

cv2.setNumThreads(0)  # the loader has its own


def decode(data: bytes, min_side: int) -> NDArray[np.uint8]:
    """JPEG, PNG, WebP or whatever OpenCV reads, to RGB (h, w, 3).

    A JPEG twice as large as needed is halved while it is decoded (or brought to a quarter or an eighth), which costs
    a fraction of decoding it whole; no side becomes shorter than ``min_side`` pixels. Orientation tags are ignored, as
    open_clip's own preprocessing does. Raises ValueError for damaged data.
    """
    if simplejpeg.is_jpeg(data) and simplejpeg.decode_jpeg_header(data)[2] not in ("CMYK", "YCCK"):
        size = {"min_height": min_side, "min_width": min_side, "min_factor": 2}  # 7/8 takes twice as long as the whole
        rgb: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", **size)
        return rgb
    try:
        encoded = np.frombuffer(data, np.uint8)
        bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # of empty data, or a picture beyond OpenCV's limit on pixels
        raise ValueError(f"OpenCV cannot decode it: {error.err}") from error
    if bgr is None:
        raise ValueError("not an image OpenCV can decode")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def draw_crop(
    draws: Sequence[float], shape: tuple[int, ...], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """y, x, height and width of a random crop by torchvision's RandomResizedCrop rule.

    Area is uniform in ``scale`` of the image's, width / height log-uniform in ``ratio``; if ten tries do not fit, the
    largest central crop within ``ratio``. ``draws`` are :data:`CROP_DRAWS` numbers, uniform in [0, 1).
    """
    height, width = shape[:2]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(TRIES):
        area = (scale[0] + (scale[1] - scale[0]) * draws[attempt]) * height * width
        aspect = math.exp(low + (high - low) * draws[TRIES + attempt])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(draws[-2] * (height - h + 1)), int(draws[-1] * (width - w + 1)), h, w
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(image: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """``image`` at the size of ``out``, both (h, w, 3): bicubic, over larger areas where it shrinks (no aliasing)."""
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # torch sees that channels are last; half the time
    resized = interpolate(pixels, out.shape[:2], mode="bicubic", antialias=True)
    out[:] = resized[0].permute(1, 2, 0).numpy()

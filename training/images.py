"""Encoded bytes to training pixels: decoding no larger than needed, CLIP's random crop, resizing.

simplejpeg and OpenCV release the interpreter's lock and use SIMD, so threads are enough to feed a model.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np
import simplejpeg

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["decode", "draw_crop", "resize"]

cv2.setNumThreads(0)  # the loader has its own


def decode(data: bytes, min_side: int) -> NDArray[np.uint8]:
    """JPEG, PNG, WebP or whatever OpenCV reads, to RGB (h, w, 3).

    A large JPEG is scaled down while it is decoded, which costs a fraction of decoding it whole; no side becomes
    shorter than ``min_side`` pixels. Orientation tags are ignored, as open_clip's own preprocessing does.
    Raises ValueError for damaged data.
    """
    if simplejpeg.is_jpeg(data) and simplejpeg.decode_jpeg_header(data)[2] not in ("CMYK", "YCCK"):
        rgb: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", min_height=min_side, min_width=min_side)
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
    draw: np.random.Generator, shape: tuple[int, ...], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """y, x, height and width of a random crop by torchvision's RandomResizedCrop rule.

    Area is uniform in ``scale`` of the image's, width / height log-uniform in ``ratio``; if ten tries do not fit, the
    largest central crop within ``ratio``.
    """
    height, width = shape[:2]
    areas = draw.uniform(*scale, 10) * height * width
    ratios = np.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1]), 10))
    for area, aspect in zip(areas, ratios, strict=True):
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(draw.integers(height - h + 1)), int(draw.integers(width - w + 1)), h, w
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(image: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """``image`` at the size of ``out``: averaging areas where it shrinks (no aliasing), bicubic where it grows."""
    height, width = out.shape[:2]
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    cv2.resize(image, (width, height), dst=out, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)

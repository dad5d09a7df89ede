"""The corruptions as functions of an image, (h, w, 3) from 0 to 1, and a random generator.

Written after the descriptions and parameters of ImageNet-C (Hendrycks and Dietterich, 2019), for images of any size.
Values beyond 0 and 1 are clipped by :func:`corrupted`, which is what an encoder sees.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL.Image import Image, Resampling
from scipy.ndimage import gaussian_filter

from evaluation.corruptions.corruption import Change

__all__ = ["KNOWN", "corrupted"]

Pixels = NDArray[np.float32]
Random = np.random.Generator

KNOWN: dict[str, Callable[..., Pixels]] = {}
"""The functions here by the kind of their corruption."""


def corrupted(image: Image, key: str, change: Change) -> Image:
    """Return ``image``, scaled to the side that ``change`` is of, corrupted. ``key``: of its sample."""
    scale = change.side / min(image.size)
    width, height = (max(change.side, round(side * scale)) for side in image.size)
    pixels = _pixels(image.convert("RGB").resize((width, height), Resampling.BILINEAR))
    seed = hashlib.blake2b(f"{change.name} {key}".encode(), digest_size=8).digest()
    random = np.random.default_rng(int.from_bytes(seed, "big"))
    return Pillow.fromarray(_bytes(change.corruption.corrupt(pixels, change.severity, random)))


def _bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.round(np.clip(pixels, 0, 1) * 255), np.uint8)


def _pixels(image: Image) -> Pixels:
    return np.asarray(image, np.float32) / np.float32(255)


def _known(function: Callable[..., Pixels]) -> Callable[..., Pixels]:
    KNOWN[function.__name__] = function
    return function


# --- noise ------------------------------------------------------------------------------------------------------------


@_known
def gaussian_noise(image: Pixels, random: Random, deviation: float) -> Pixels:
    return image + deviation * random.standard_normal(image.shape, np.float32)


@_known
def shot_noise(image: Pixels, random: Random, photons: float) -> Pixels:
    """``photons``: how many come of white."""
    return (random.poisson(image * photons) / photons).astype(np.float32)


@_known
def impulse_noise(image: Pixels, random: Random, share: float) -> Pixels:
    hit, white = random.random(image.shape) < share, random.random(image.shape) < 0.5
    return np.where(hit, white, image).astype(np.float32)


@_known
def speckle_noise(image: Pixels, random: Random, deviation: float) -> Pixels:
    return image + image * deviation * random.standard_normal(image.shape, np.float32)


# --- blur -------------------------------------------------------------------------------------------------------------


@_known
def gaussian_blur(image: Pixels, random: Random, deviation: float) -> Pixels:
    return gaussian_filter(image, (deviation, deviation, 0), mode="nearest")  # type: ignore[no-any-return]


@_known
def defocus_blur(image: Pixels, random: Random, radius: float, soft: float) -> Pixels:
    """The mean over a disk whose edge is ``soft``."""
    reach = math.ceil(radius) + 3
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.float32)
    kernel = cv2.GaussianBlur(disk / disk.sum(), (3, 3) if radius <= 8 else (5, 5), sigmaX=soft)
    return np.asarray(cv2.filter2D(image, -1, kernel), np.float32)


@_known
def glass_blur(image: Pixels, random: Random, deviation: float, reach: int, times: int) -> Pixels:
    """Pixels change places with one of at most ``reach`` away, one after the other, between two blurs."""
    blurred = gaussian_blur(image, random, deviation)
    height, width = image.shape[:2]
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    order = list(range(height * width))
    for _ in range(times):
        dx, dy = random.integers(-reach, reach, (2, len(rows), len(columns)))
        here = rows[:, None] * width + columns
        there = here + dy * width + dx
        for one, other in zip(here.ravel().tolist(), there.ravel().tolist(), strict=True):
            order[one], order[other] = order[other], order[one]
    return gaussian_blur(blurred.reshape(-1, 3)[order].reshape(image.shape), random, deviation)


@_known
def motion_blur(image: Pixels, random: Random, reach: int, deviation: float) -> Pixels:
    return _moved(image, reach, deviation, random.uniform(-45, 45))


def _moved(image: Pixels, reach: int, deviation: float, angle: float) -> Pixels:
    """Blur along a line of ``2 * reach + 1`` pixels that fades as a normal density, from each pixel on."""
    steps = np.arange(2 * reach + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    x, y = (np.round(steps * turn(math.radians(angle))).astype(int) for turn in (math.cos, math.sin))
    kernel = np.zeros((4 * reach + 1, 4 * reach + 1), np.float32)
    np.add.at(kernel, (2 * reach + y, 2 * reach + x), weights / weights.sum())
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE), np.float32)


@_known
def zoom_blur(image: Pixels, random: Random, most: float, step: float) -> Pixels:
    """The mean of the image and of itself enlarged up to ``most`` times."""
    factors = np.arange(1, most + step / 2, step)
    return (image + sum(_enlarged(image, factor) for factor in factors)) / np.float32(len(factors) + 1)


def _enlarged(image: Pixels, factor: float) -> Pixels:
    """The middle of an image, enlarged to its size."""
    height, width = image.shape[:2]
    shift = [(side - 1) / 2 * (1 - 1 / factor) for side in (width, height)]
    back = np.array([[1 / factor, 0, shift[0]], [0, 1 / factor, shift[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, back, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101))


# --- weather ----------------------------------------------------------------------------------------------------------


@_known
def snow(
    image: Pixels,
    random: Random,
    mean: float,
    deviation: float,
    size: float,
    threshold: float,
    reach: int,
    motion: float,
    mix: float,
) -> Pixels:
    """Flakes from noise that is enlarged, cut off below and blurred downwards, on a paler image."""
    flakes = _enlarged(random.normal(mean, deviation, image.shape[:2]).astype(np.float32), size)
    flakes = _moved(np.where(flakes < threshold, 0, np.clip(flakes, 0, 1)), reach, motion, random.uniform(-135, -45))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    pale = np.float32(mix) * image + np.float32(1 - mix) * np.maximum(image, grey * 1.5 + 0.5)
    return np.asarray(pale + (flakes + np.rot90(flakes, 2))[..., None], np.float32)


@_known
def fog(image: Pixels, random: Random, density: float, smooth: float) -> Pixels:
    height, width = image.shape[:2]
    cloud = _plasma(1 << (max(height, width, 2) - 1).bit_length(), smooth, random)[:height, :width, None]
    brightest = float(image.max())
    return ((image + density * cloud) * (brightest / (brightest + density))).astype(np.float32)


def _plasma(side: int, smooth: float, random: Random) -> NDArray[np.float64]:
    """A cloud from 0 to 1 by the diamond-square algorithm, on a torus; ``side`` is a power of two."""
    field = np.zeros((side, side))
    step, rough = side, 100.0

    def wobbled(total: NDArray[np.float64]) -> NDArray[np.float64]:
        return total / 4 + rough * random.uniform(-rough, rough, total.shape)

    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        rows = corners + np.roll(corners, -1, axis=0)
        field[half::step, half::step] = wobbled(rows + np.roll(rows, -1, axis=1))
        middles = field[half::step, half::step]
        down, right = middles + np.roll(middles, 1, axis=0), middles + np.roll(middles, 1, axis=1)
        field[::step, half::step] = wobbled(down + corners + np.roll(corners, -1, axis=1))
        field[half::step, ::step] = wobbled(right + corners + np.roll(corners, -1, axis=0))
        step, rough = half, rough / smooth
    field -= field.min()
    return np.asarray(field / field.max())


@_known
def brightness(image: Pixels, random: Random, more: float) -> Pixels:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.minimum(hsv[..., 2] + more, 1)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)


@_known
def spatter(
    image: Pixels,
    random: Random,
    mean: float,
    deviation: float,
    size: float,
    threshold: float,
    strength: float,
    mud: int,
) -> Pixels:
    """Drops where smoothed noise is above ``threshold``: of water, which shines, or of ``mud``, which covers."""
    liquid = gaussian_filter(random.normal(mean, deviation, image.shape[:2]), size, mode="nearest")
    liquid[liquid < threshold] = 0
    if mud:
        cover = gaussian_filter((liquid > threshold).astype(np.float32), strength, mode="nearest")[..., None]
        cover[cover < 0.8] = 0
        return np.asarray(image * (1 - cover) + cover * np.array(_MUD, np.float32), np.float32)
    light = _shine(_bytes(liquid)) * liquid[..., None]
    return np.asarray(image + strength / max(light.max(), 1e-6) * light * np.array(_WATER, np.float32), np.float32)


_WATER, _MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)
_RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])  # light from above on the left


def _shine(drops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Light on a relief whose height is the distance to the drops' edges, up to 20 pixels: (h, w, 1)."""
    away = cv2.distanceTransform(255 - cv2.Canny(drops, 50, 150), cv2.DIST_L2, 5)
    height = cv2.equalizeHist(cv2.blur(np.minimum(away, 20), (3, 3)).astype(np.uint8))
    return np.asarray(cv2.blur(cv2.filter2D(height, cv2.CV_8U, _RELIEF), (3, 3))[..., None], np.float32)


# --- digital ----------------------------------------------------------------------------------------------------------


@_known
def saturate(image: Pixels, random: Random, times: float, more: float) -> Pixels:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.clip(hsv[..., 1] * times + more, 0, 1)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)


@_known
def contrast(image: Pixels, random: Random, rest: float) -> Pixels:
    mean = image.mean(axis=(0, 1))
    return np.asarray((image - mean) * rest + mean, np.float32)


@_known
def elastic_transform(image: Pixels, random: Random, strength: float, smooth: float, shift: float) -> Pixels:
    """Three points of the middle moved by up to ``shift`` pixels, then each pixel by smoothed noise."""
    height, width = image.shape[:2]
    middle, reach = np.array([width, height]) // 2, min(height, width) // 3
    points = np.array([middle + reach, [middle[0] + reach, middle[1] - reach], middle - reach], np.float32)
    moved = points + random.uniform(-shift, shift, points.shape).astype(np.float32)
    affine = cv2.getAffineTransform(points, moved)
    image = np.asarray(cv2.warpAffine(image, affine, (width, height), borderMode=cv2.BORDER_REFLECT_101))
    x, y = (
        strength * gaussian_filter(random.uniform(-1, 1, (height, width)), smooth, mode="reflect", truncate=3)
        for _ in range(2)
    )
    columns, rows = (np.arange(width) + x).astype(np.float32), (np.arange(height)[:, None] + y).astype(np.float32)
    return np.asarray(cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.float32)


@_known
def pixelate(image: Pixels, random: Random, share: float) -> Pixels:
    height, width = image.shape[:2]
    small = Pillow.fromarray(_bytes(image)).resize((int(width * share), int(height * share)), Resampling.BOX)
    return _pixels(small.resize((width, height), Resampling.BOX))


@_known
def jpeg_compression(image: Pixels, random: Random, quality: int) -> Pixels:
    Pillow.fromarray(_bytes(image)).save(data := io.BytesIO(), "JPEG", quality=quality)
    return _pixels(Pillow.open(data))

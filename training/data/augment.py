"""CLIP's augmentations of one image: random crop, and where asked for flip, colour jitter and greyscale.

Their rules are torchvision's, in the order of open_clip's transform; what they draw comes from outside, so that an
image at a position of the run always looks the same. Colour jitter and greyscale are SimCLR's (Chen et al. 2020,
https://arxiv.org/abs/2002.05709), as in open_clip's ``aug_cfg``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import cv2
import numpy as np

from training.config import Augment
from training.data.decode import CROP_DRAWS, draw_crop, resize

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DRAWS", "Augmentation", "jitter"]

DRAWS = 32
"""Random numbers of one position: the crop's first, then flip, jitter (whether, order, four factors), greyscale; the
last chooses the caption. A multiple of four."""

ORDERS = list(permutations(range(4)))


@dataclass(frozen=True)
class Augmentation:
    """The random changes that ``config`` asks for, applied to one image at a time."""

    config: Augment

    def __call__(self, image: NDArray[np.uint8], draws: Sequence[float], out: NDArray[np.uint8]) -> None:
        """Write ``image`` (any size) augmented to ``out`` (h, w, 3); ``draws`` are :data:`DRAWS` uniform numbers."""
        y, x, height, width = draw_crop(draws[:CROP_DRAWS], image.shape, self.config.crop_scale, self.config.crop_ratio)
        resize(image[y : y + height, x : x + width], out)
        flip, whether, turn, brightness, contrast, saturation, hue, grey = draws[CROP_DRAWS : CROP_DRAWS + 8]
        if flip < self.config.flip_prob:
            out[:] = out[:, ::-1].copy()
        if self.config.color_jitter is not None and whether < self.config.color_jitter_prob:
            strengths, own = self.config.color_jitter, (brightness, contrast, saturation)
            factors = [max(0.0, 1 - s) + (1 + s - max(0.0, 1 - s)) * u for s, u in zip(strengths[:3], own, strict=True)]
            jitter(out, ORDERS[int(turn * len(ORDERS))], (*factors, (2 * hue - 1) * strengths[3]))
        if grey < self.config.gray_scale_prob:
            out[:] = _grey(out)[..., None]


def jitter(image: NDArray[np.uint8], order: Sequence[int], factors: Sequence[float]) -> None:
    """Change brightness (0), contrast (1), saturation (2) and hue (3) of ``image`` (h, w, 3) in place, in ``order``.

    The first three factors are 1 for no change, the hue's is a part of the colour circle in [-0.5, 0.5].
    """
    for change in order:
        factor = factors[change]
        match change:
            case 0:
                cv2.convertScaleAbs(image, image, factor)
            case 1:
                mean = float(_grey(image).mean())
                shades = np.arange(256) * factor + mean * (1 - factor)
                cv2.LUT(image, shades.clip(0, 255).round().astype(np.uint8), image)
            case 2:
                grey = cv2.cvtColor(_grey(image), cv2.COLOR_GRAY2RGB)
                cv2.addWeighted(image, factor, grey, 1 - factor, 0, image)
            case 3 if factor:
                hsv = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)  # hue in degrees
                hsv[..., 0] = (hsv[..., 0] + 360 * factor) % 360
                image[:] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).round().clip(0, 255).astype(np.uint8)


def _grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma of ITU-R 601, (h, w)."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)

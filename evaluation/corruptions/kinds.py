"""The kinds of corruptions and what their severities 1 to 5 are, after ImageNet-C (Hendrycks and Dietterich, 2019).

``levels``: the numbers of each severity, as its authors chose them for images of 224 pixels; what they mean is said by
the function of that name in :mod:`evaluation.corruptions.pixels`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from evaluation.corruptions.corruption import Corruption

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "IMAGENET_C",
    "Brightness",
    "Contrast",
    "DefocusBlur",
    "ElasticTransform",
    "Fog",
    "GaussianBlur",
    "GaussianNoise",
    "GlassBlur",
    "ImpulseNoise",
    "JpegCompression",
    "MotionBlur",
    "Pixelate",
    "Saturate",
    "ShotNoise",
    "Snow",
    "Spatter",
    "SpeckleNoise",
    "ZoomBlur",
]


class _Known(Corruption):
    """Base of the kinds here: the function of the same name in :mod:`evaluation.corruptions.pixels` computes them."""

    kind: ClassVar[str] = ""
    levels: ClassVar[tuple[tuple[float, ...], ...]] = ()

    def corrupt(self, image: NDArray[np.float32], severity: int, random: np.random.Generator) -> NDArray[np.float32]:
        from evaluation.corruptions import pixels  # loads OpenCV

        corrupted: NDArray[np.float32] = pixels.KNOWN[self.kind](image, random, *self.levels[severity - 1])
        return corrupted


class GaussianNoise(_Known):
    """Noise of a sensor in low light."""

    levels = ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,))


class ShotNoise(_Known):
    """Noise of light that comes in single photons."""

    levels = ((60,), (25,), (12,), (5,), (3,))


class ImpulseNoise(_Known):
    """Values that are black or white, as of bit errors."""

    levels = ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,))


class SpeckleNoise(_Known):
    """Noise that grows with the brightness; an extra kind of ImageNet-C."""

    levels = ((0.15,), (0.2,), (0.35,), (0.45,), (0.6,))


class DefocusBlur(_Known):
    """An image out of focus."""

    levels = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))


class GaussianBlur(_Known):
    """A smooth blur; an extra kind of ImageNet-C."""

    levels = ((1,), (2,), (3,), (4,), (6,))


class GlassBlur(_Known):
    """Frosted glass."""

    levels = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))


class MotionBlur(_Known):
    """A camera that moves."""

    levels = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))


class ZoomBlur(_Known):
    """A camera that moves towards the object."""

    levels = ((1.1, 0.01), (1.15, 0.01), (1.2, 0.02), (1.25, 0.02), (1.3, 0.03))


class Snow(_Known):
    """Falling snow."""

    levels = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )


class Fog(_Known):
    """Fog, by the diamond-square algorithm."""

    levels = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))


class Brightness(_Known):
    """More light."""

    levels = ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))


class Saturate(_Known):
    """Less or more colour; an extra kind of ImageNet-C."""

    levels = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))


class Spatter(_Known):
    """Drops of water, or of mud from severity 4 on; an extra kind of ImageNet-C."""

    levels = (
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    )


class Contrast(_Known):
    """Less contrast."""

    levels = ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,))


class ElasticTransform(_Known):
    """Small parts stretched and turned."""

    levels = ((488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88))


class Pixelate(_Known):
    """Few pixels, enlarged."""

    levels = ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,))


class JpegCompression(_Known):
    """The artifacts of JPEG."""

    levels = ((25,), (18,), (15,), (10,), (7,))


IMAGENET_C: tuple[Corruption, ...] = (
    *(GaussianNoise(), ShotNoise(), ImpulseNoise()),
    *(DefocusBlur(), GlassBlur(), MotionBlur(), ZoomBlur()),
    *(Snow(), Fog(), Brightness()),
    *(Contrast(), ElasticTransform(), Pixelate(), JpegCompression()),
)
"""ImageNet-C's fifteen kinds but frost."""

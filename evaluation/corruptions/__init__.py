"""Corruptions of test images, by which a model's accuracy is measured under noise, blur, weather and compression.

The kinds and their five severities are ImageNet-C's (Hendrycks and Dietterich, 2019), with its extra ones. One is
missing: frost, which is laid over images from photographs of ice. A kind of your own is a subclass of
:class:`Corruption`, in a recipe too. Here are their fields; how they compute is in :mod:`.pixels`, which planning does
not load.
"""

from evaluation.corruptions.config import Corruptions
from evaluation.corruptions.corruption import Change, Corruption
from evaluation.corruptions.kinds import (
    IMAGENET_C,
    Brightness,
    Contrast,
    DefocusBlur,
    ElasticTransform,
    Fog,
    GaussianBlur,
    GaussianNoise,
    GlassBlur,
    ImpulseNoise,
    JpegCompression,
    MotionBlur,
    Pixelate,
    Saturate,
    ShotNoise,
    Snow,
    Spatter,
    SpeckleNoise,
    ZoomBlur,
)

__all__ = [
    "IMAGENET_C",
    "Brightness",
    "Change",
    "Contrast",
    "Corruption",
    "Corruptions",
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

"""Regions of the demo's images, as an object detector would leave them: exact boxes, features and classes that are not.

There is no detector. The box of each thing that is drawn is known; a feature is the sum of a vector for its shape and
one for its colour, with noise, and the probabilities are those of somebody who is right most of the time. One region of
each image is a false find. So who reads the regions has all that captions tell of, and never anything clean.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.formats.region_shape import BOXES, CLASSES, REGIONS
from infra.formats.regions import Regions
from workflows.demo.compositions import Composition
from workflows.demo.drawing import boxes
from workflows.demo.pairs import Compared
from workflows.demo.scenes import COLOURS, COMBINATIONS, SHAPES

__all__ = ["FEATURES", "detect", "detect_side_by_side", "members"]

FEATURES = 32
"""Width of a feature. The classes are :data:`.scenes.COMBINATIONS`."""

_NOISE = 0.3  # of a feature's numbers, which have a variance of 2 without it
_SURE = 4.0  # logit of the right class, where others have a variance of 1


def detect(composition: Composition) -> Regions:
    """The regions of an image, the things that are drawn in any order and a false find, the surest first."""
    draw = np.random.default_rng([composition.seed, *composition.caption.encode()])
    things = [(SHAPES.index(item.shape), COLOURS.index(item.colour)) for item in composition.items]
    features = _VECTORS[0][[shape for shape, _ in things]] + _VECTORS[1][[colour for _, colour in things]]
    features = np.concatenate([features, draw.normal(size=(1, FEATURES))])
    logits = draw.normal(size=(len(features), len(COMBINATIONS)))
    for row, (shape, colour) in enumerate(things):
        logits[row, shape * len(COLOURS) + colour] += _SURE
    weights = np.exp(logits)
    classes = weights / weights.sum(1, keepdims=True)
    low, size = draw.uniform(0, 0.6, 2), draw.uniform(0.1, 0.4, 2)
    places = [(left, top, left + width, top + height) for left, top, width, height in boxes(composition, 1)]
    order = np.argsort(-classes.max(1))
    return Regions(
        (features + draw.normal(scale=_NOISE, size=features.shape)).astype(np.float32)[order],
        np.array([*places, (*low, *(low + size))], np.float32).clip(0, 1)[order],
        classes.astype(np.float32)[order],
    )


def detect_side_by_side(compositions: Sequence[Composition]) -> Regions:
    """The regions of several images side by side in one, from left to right; boxes are in parts of the whole."""
    found, (right, down) = [detect(one) for one in compositions], np.eye(2)[:, [0, 1, 0, 1]]
    boxes = [(one.boxes + number * right) / (len(found) * right + down) for number, one in enumerate(found)]
    classes = np.concatenate([one.classes for one in found if one.classes is not None])
    order = np.argsort(-classes.max(1))
    features = np.concatenate([one.features for one in found])
    return Regions(features[order], np.concatenate(boxes).astype(np.float32)[order], classes[order])


def members(image: Composition | Compared) -> dict[str, bytes]:
    """The members of a sample with the image's regions, by extension, in 16 bits."""
    found = detect_side_by_side((image.left, image.right)) if isinstance(image, Compared) else detect(image)
    assert found.classes is not None
    arrays = ((REGIONS, found.features), (BOXES, found.boxes), (CLASSES, found.classes))
    return {name: _npy(array.astype(np.float16)) for name, array in arrays}


def _npy(array: NDArray[np.float16]) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()


_VECTORS = np.random.default_rng(0).normal(size=(2, 6, FEATURES))  # of shapes and of colours

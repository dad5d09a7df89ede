"""Test sets as features: every image, and where there are captions every distinct caption, encoded once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.encoder import Encoder
from infra.errors import DataError
from infra.formats.testset import EvalSet

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Captioned", "Embedded", "embed_captioned", "embed_images"]


@dataclass(frozen=True)
class Embedded:
    """The n images of a test set, in its order. ``labels`` are -1 and ``captions`` given in a retrieval set."""

    keys: list[str]
    labels: list[int]
    captions: list[tuple[str, ...]]
    features: NDArray[np.float32]  # (n, d), unit rows


@dataclass(frozen=True)
class Captioned:
    """A retrieval set as features. Caption i reads ``captions[text_of[i]]`` and belongs to image ``image_of[i]``.

    Captions of the same words are encoded once: it saves the work, and they then score equal to the last bit.
    """

    keys: list[str]  # of the images
    images: NDArray[np.float32]  # (n, d), unit rows
    captions: list[str]  # distinct
    texts: NDArray[np.float32]  # (len(captions), d), unit rows
    text_of: list[int]
    image_of: list[int]


def embed_images(encoder: Encoder, examples: EvalSet) -> Embedded:
    """Encode all images of a test set, holding one batch of pixels at a time. Raises DataError for an empty set."""
    keys: list[str] = []
    labels: list[int] = []
    captions: list[tuple[str, ...]] = []

    def images() -> Iterator[Image]:
        for sample in examples:
            keys.append(sample.key)
            labels.append(sample.label)
            captions.append(sample.captions)
            yield sample.image

    features = encoder.encode_images(images())
    if not keys:
        raise DataError(f"test set {examples.name!r} is empty", expected="at least one image")
    return Embedded(keys, labels, captions, features)


def embed_captioned(encoder: Encoder, examples: EvalSet) -> Captioned:
    """Encode all images and distinct captions of a retrieval set. Raises DataError for an empty set."""
    embedded = embed_images(encoder, examples)
    place: dict[str, int] = {}  # of each distinct caption
    text_of: list[int] = []
    image_of: list[int] = []
    for image, captions in enumerate(embedded.captions):
        text_of += [place.setdefault(caption, len(place)) for caption in captions]
        image_of += [image] * len(captions)
    texts = encoder.encode_texts(list(place))
    return Captioned(embedded.keys, embedded.features, list(place), texts, text_of, image_of)

"""CIDEr-D: how much of what people agree on about an image a caption says.

Vedantam et al. 2015, https://arxiv.org/abs/1411.5726, section 6, with COCO's constants: the mean over n-grams of one to
four words of ten times the cosine of two vectors of counts, each count weighted by how few images of the set have the
n-gram in a reference, clipped to the reference's, and with a Gaussian penalty (sigma 6) of the difference in length.
The weights are those of the whole set; resamples of images do not change them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from math import exp, log, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Consensus"]

Words = Sequence[str]
_ORDERS, _SIGMA = 4, 6.0


class _Text(NamedTuple):
    """A text as weighted counts of its n-grams, by n, with the lengths of these vectors."""

    weights: list[dict[tuple[str, ...], float]]
    norms: list[float]
    words: int


class Consensus:
    """The references of every image of a set, which written captions are compared with."""

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        images = [{*chain.from_iterable(chain.from_iterable(map(_grams, own)))} for own in references]
        self._images_with = Counter(chain.from_iterable(images))
        self._images = len(references)
        self._references = [[self._text(words) for words in own] for own in references]

    def scores(self, written: Sequence[Words], images: Iterable[int]) -> NDArray[np.float64]:
        """The score (n,), from 0 to 10, of each written caption for the image of that number."""
        pairs = zip(written, images, strict=True)
        return np.array([self._score(self._text(words), self._references[image]) for words, image in pairs])

    def _text(self, words: Words) -> _Text:
        weights = [
            {gram: count * log(self._images / max(1, self._images_with[gram])) for gram, count in grams.items()}
            for grams in _grams(words)
        ]
        return _Text(weights, [sqrt(sum(value**2 for value in own.values())) for own in weights], len(words))

    def _score(self, text: _Text, references: Sequence[_Text]) -> float:
        total = 0.0
        for other in references:
            alike = 0.0
            for mine, theirs, norm, their_norm in zip(
                text.weights, other.weights, text.norms, other.norms, strict=True
            ):
                if norm and their_norm:
                    shared = sum(
                        min(value, theirs[gram]) * theirs[gram] for gram, value in mine.items() if gram in theirs
                    )
                    alike += shared / (norm * their_norm)
            total += alike * exp(-((text.words - other.words) ** 2) / (2 * _SIGMA**2))
        return 10 * total / (_ORDERS * len(references))


def _grams(words: Words) -> list[Counter[tuple[str, ...]]]:
    """Count the n-grams of a text, for n from 1 to 4."""
    return [
        Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1)) for n in range(1, _ORDERS + 1)
    ]

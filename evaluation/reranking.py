"""Re-ranking: a fusion model reads the first k answers of every query together with it and puts them in a new order.

ALBEF's protocol (Li et al., 2021, section 5): fusing all pairs would cost n times m passes, so the two encoders, which
need n + m, choose the candidates. Behind the k candidates the order of the encoders stays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluation.embedded import Embedded
from infra.ranking import Retrieved, nearest

__all__ = ["reranked"]

Ints = NDArray[np.int64]


def reranked(data: Embedded, retrieved: Retrieved, k: int) -> Retrieved:
    """``retrieved``, the first ``k`` different captions of each image and images of each caption re-ranked."""
    texts = len(data.texts)
    vectors = data.image_vectors  # of images without pixels zeros: then all are candidates, in any order
    _, captions = nearest(vectors, data.texts, k)  # (n, k) numbers of captions
    _, images = nearest(data.texts, vectors, k)  # (texts, k)

    # Each pair once, whichever side proposes it.
    by_image = np.arange(len(vectors))[:, None] * texts + captions
    by_text = images * texts + np.arange(texts)[:, None]
    pairs, place = np.unique(np.concatenate([by_image.ravel(), by_text.ravel()]), return_inverse=True)
    logits = data.match(pairs // texts, pairs % texts)[place]
    of_captions, of_images = logits[: by_image.size].reshape(by_image.shape), logits[by_image.size :]

    image_side = _images_ask(data, retrieved, captions, of_captions)
    text_side = _texts_ask(data, retrieved, images, of_images.reshape(by_text.shape))
    return Retrieved(retrieved.image_of, *image_side, *text_side)


def _images_ask(
    data: Embedded, retrieved: Retrieved, captions: Ints, logits: NDArray[np.float32]
) -> tuple[Ints, Ints, Ints]:
    """For each image query the wrong captions above its best own one, and the wrong and own ones level with it."""
    asking = np.unique(data.image_of)
    captions, logits = captions[asking], logits[asking]
    cells, counts = np.unique(data.image_of * len(data.texts) + data.text_of, return_counts=True)
    wanted = asking[:, None] * len(data.texts) + captions
    found = np.minimum(np.searchsorted(cells, wanted), len(cells) - 1)
    own = np.where(cells[found] == wanted, counts[found], 0)  # captions of the image that read so
    wrong = np.bincount(data.text_of, minlength=len(data.texts))[captions] - own

    best = np.where(own > 0, logits, -np.inf).max(axis=1, keepdims=True)
    level = logits == best
    above = np.where(logits > best, wrong, 0).sum(axis=1)
    fused = (own > 0).any(axis=1)
    new = above, np.where(level, wrong, 0).sum(axis=1), np.where(level, own, 0).sum(axis=1)
    old = retrieved.image_better, retrieved.image_equal, retrieved.image_right
    better, equal, right = (np.where(fused, one, other) for one, other in zip(new, old, strict=True))
    return better, equal, right


def _texts_ask(data: Embedded, retrieved: Retrieved, images: Ints, logits: NDArray[np.float32]) -> tuple[Ints, Ints]:
    """For each caption the wrong images above its own, and level with it."""
    images, logits = images[data.text_of], logits[data.text_of]
    right = images == data.image_of[:, None]
    own = np.where(right, logits, -np.inf).max(axis=1, keepdims=True)
    fused = right.any(axis=1)
    better = np.where(fused, (logits > own).sum(axis=1), retrieved.text_better)
    equal = np.where(fused, (logits == own).sum(axis=1) - 1, retrieved.text_equal)
    return better, equal

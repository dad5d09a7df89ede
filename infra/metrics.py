"""Compute zero-shot classification and retrieval metrics from features, without the whole N x M score matrix.

Each evaluator first ranks (one pass over chunks of the score matrix), then gives metrics under CLIP_benchmark's names,
which know their value on the whole test set and on resamples of it (:mod:`infra.measures`).

**Ties.** Classes: the first in the list wins, as numpy's and scikit-learn's argmax have it. Retrieval: web captions
repeat word for word, so ties are the rule, and an order among equals would be an accident of the sort. A query's
recall is its *expectation over random orders of equals*: between g strictly better wrong answers, t equal wrong and p
equal right ones, the chance that a right one is among the first K. Without ties this is the usual 0 or 1, and a model
that gives all pairs one score gets exactly what guessing gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.measures import Average, ClassMean, Mean, Metric

__all__ = ["Classified", "Retrieved", "classify", "confusion_matrix", "ensemble", "retrieve", "tie_recall", "top_k"]

Numbers = Sequence[int] | NDArray[np.int64]

_CELLS = 1 << 22  # of a score chunk: 16 MiB in float32


def _chunk(columns: int) -> int:
    return max(1, _CELLS // max(1, columns))


def ensemble(prompts: NDArray[np.float32], classes: int) -> NDArray[np.float32]:
    """Combine prompts into one unit vector per class, the normalised mean of its prompts (Radford et al., 2021).

    ``prompts``: (classes * templates, d), unit rows, a class's templates side by side. -> (classes, d).
    """
    mean = prompts.reshape(classes, -1, prompts.shape[-1]).mean(axis=1)
    unit: NDArray[np.float32] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit


def top_k(scores: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Columns of the ``k`` highest scores of each row, best first, equals in column order. (n, m) -> (n, min(k, m))."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


# --- classification ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Classified:
    """The classification of N images into C classes."""

    labels: NDArray[np.int64]  # (N,)
    predicted: NDArray[np.int64]  # (N,)
    rank: NDArray[np.int64]  # (N,) of the true class, 0 = first
    classes: int

    def metrics(self) -> dict[str, Metric]:
        """The metrics by name; ``acc5`` says nothing below five classes and is left out there."""
        first = self.rank == 0
        found: dict[str, Metric] = {"acc1": Mean(first)}
        if self.classes >= 5:
            found["acc5"] = Mean(self.rank < 5)
        return found | {"mean_per_class_recall": ClassMean(first, self.labels)}


def classify(images: NDArray[np.float32], classifier: NDArray[np.float32], labels: Numbers) -> Classified:
    """Rank the classes for every image. ``images`` (N, d), ``classifier`` (C, d), unit rows; labels in [0, C)."""
    truth = np.asarray(labels, dtype=np.int64)
    predicted, rank = np.empty_like(truth), np.empty_like(truth)
    columns = np.arange(len(classifier))
    for start in range(0, len(images), step := _chunk(len(classifier))):
        part = slice(start, start + step)
        scores = images[part] @ classifier.T
        label = truth[part, None]
        own = np.take_along_axis(scores, label, axis=1)
        predicted[part] = scores.argmax(axis=1)
        rank[part] = ((scores > own) | ((scores == own) & (columns < label))).sum(axis=1)
    return Classified(truth, predicted, rank, len(classifier))


def confusion_matrix(classified: Classified) -> NDArray[np.int64]:
    """Count images by true class (rows) and predicted class (columns): (C, C)."""
    cells = classified.labels * classified.classes + classified.predicted
    size = classified.classes
    return np.bincount(cells, minlength=size * size).reshape(size, size)


# --- retrieval --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Retrieved:
    """Ranks of the right answers to N image queries and T text queries (see the module docstring for g, t, p).

    ``image_of`` is the image of each text, ascending: the texts of an image lie side by side.
    """

    image_of: NDArray[np.int64]  # (T,)
    image_better: NDArray[np.int64]  # (N,) g: wrong texts above the best right one
    image_equal: NDArray[np.int64]  # (N,) t: wrong texts level with it
    image_right: NDArray[np.int64]  # (N,) p: right texts level with it
    text_better: NDArray[np.int64]  # (T,) wrong images above the right one
    text_equal: NDArray[np.int64]  # (T,) wrong images level with it

    def image_recall(self, k: int) -> NDArray[np.float64]:
        """Recall at ``k`` of the image of each text, (T,): CLIP_benchmark's ``image_retrieval_recall@k``."""
        return tie_recall(self.text_better, self.text_equal, np.ones_like(self.text_equal), k)

    def text_recall(self, k: int) -> NDArray[np.float64]:
        """Recall at ``k`` of any text of each image, (N,): ``text_retrieval_recall@k``."""
        return tie_recall(self.image_better, self.image_equal, self.image_right, k)

    def metrics(self, ks: Sequence[int]) -> dict[str, Metric]:
        """Recall at each of ``ks`` in both directions and their mean, the main number of DataComp's retrieval sets.

        Images are resampled with their texts. The gallery stays whole: queries are resampled, not what they search.
        """
        images = len(self.image_better)
        texts = np.bincount(self.image_of, minlength=images)
        hits = {k: np.bincount(self.image_of, weights=self.image_recall(k), minlength=images) for k in ks}
        image: dict[int, Metric] = {k: Mean(found, texts) for k, found in hits.items()}
        text: dict[int, Metric] = {k: Mean(self.text_recall(k)) for k in ks}
        return {
            **{f"image_retrieval_recall@{k}": metric for k, metric in image.items()},
            **{f"text_retrieval_recall@{k}": metric for k, metric in text.items()},
            **{f"mean_recall@{k}": Average((image[k], text[k])) for k in ks},
        }


def tie_recall(
    better: NDArray[np.int64], equal: NDArray[np.int64], right: NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    """Compute the chance that one of ``right`` answers is in the first ``k``.

    They are shuffled with ``equal`` wrong ones, below ``better`` wrong ones: one minus the hypergeometric chance of
    drawing wrong ones only.
    """
    missed = np.ones(len(better))
    for drawn in range(k):
        # The place `better + drawn`, if it is among the first k, goes to a wrong one again.
        wrong = np.maximum(equal - drawn, 0) / np.maximum(equal + right - drawn, 1)
        missed = np.where(better + drawn < k, missed * wrong, missed)
    return 1.0 - missed


def retrieve(images: NDArray[np.float32], texts: NDArray[np.float32], text_of: Numbers, image_of: Numbers) -> Retrieved:
    """Rank all texts for every image and all images for every text.

    ``images`` (N, d) and ``texts`` (U, d) of unit rows, each wording encoded once, so that equal captions score equal
    to the last bit. Caption i has the wording ``text_of[i]`` and belongs to image ``image_of[i]``; captions come in
    the order of their images, and every image has one at least.
    """
    wording, owner = np.asarray(text_of, dtype=np.int64), np.asarray(image_of, dtype=np.int64)
    first = np.searchsorted(owner, np.arange(len(images) + 1))  # the captions of image i: first[i] .. first[i + 1]

    # Each image against all texts, as far as its best own text.
    image_side = np.empty((3, len(images)), dtype=np.int64)
    for start in range(0, len(images), step := _chunk(len(owner))):
        stop = min(start + step, len(images))
        scores = (images[start:stop] @ texts.T)[:, wording]
        mine = slice(first[start], first[stop])
        row, offsets = owner[mine] - start, first[start:stop] - first[start]
        own = scores[row, np.arange(mine.start, mine.stop)]
        best = np.maximum.reduceat(own, offsets)
        right = np.add.reduceat((own == best[row]).astype(np.int64), offsets)
        level = (scores == best[:, None]).sum(axis=1)
        image_side[:, start:stop] = (scores > best[:, None]).sum(axis=1), level - right, right

    # Each text against all images.
    text_side = np.empty((2, len(owner)), dtype=np.int64)
    for start in range(0, len(owner), step := _chunk(len(images))):
        part = slice(start, start + step)
        scores = texts[wording[part]] @ images.T
        own = np.take_along_axis(scores, owner[part, None], axis=1)
        text_side[:, part] = (scores > own).sum(axis=1), (scores == own).sum(axis=1) - 1

    return Retrieved(owner, *image_side, *text_side)

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

__all__ = [
    *("Classified", "Retrieved", "classified", "classify", "confusion_matrix", "ensemble"),
    *("distinct", "nearest", "retrieve", "tie_recall", "top_k"),
]

Numbers = Sequence[int] | NDArray[np.int64]

_CELLS = 1 << 22  # of a score chunk: 16 MiB in float32
_SIDE = 1 << 11  # of a block of scores


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
    rows, columns = scores.shape
    if k < columns:
        # Those above the k-th score, and of those level with it the first that there is room for.
        least = np.partition(scores, columns - k, axis=1)[:, columns - k, None]
        room = k - (scores > least).sum(axis=1, keepdims=True)
        level = scores == least
        chosen = (scores > least) | (level & (level.cumsum(axis=1) <= room))
        places = np.nonzero(chosen)[1].reshape(rows, k)
    else:
        places = np.broadcast_to(np.arange(columns), (rows, columns))
    order = np.argsort(-np.take_along_axis(scores, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)


def nearest(
    queries: NDArray[np.float32], answers: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The ``k`` answers of highest cosine to each query, best first, equals in their order: cosines and places, (n, k).

    ``queries`` (n, d) and ``answers`` (m, d) of unit rows. Of the score matrix a block exists at a time.
    """
    most = min(k, len(answers))
    values = np.empty((len(queries), 0), np.float32)
    places = np.empty((len(queries), 0), np.int64)
    for columns in _blocks(len(answers), max(_SIDE, 8 * most)):
        parts = []
        for rows in _blocks(len(queries)):
            scores = queries[rows] @ answers[columns].T
            found = top_k(scores, most)
            # Earlier blocks stand first, so that equals stay in their order.
            both = np.concatenate([values[rows], np.take_along_axis(scores, found, axis=1)], axis=1)
            where = np.concatenate([places[rows], found + columns.start], axis=1)
            best = top_k(both, most)
            parts.append((np.take_along_axis(both, best, axis=1), np.take_along_axis(where, best, axis=1)))
        values, places = (np.concatenate(part) for part in zip(*parts, strict=True))
    return values, places


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
    parts = [
        classified(images[start : start + step] @ classifier.T, truth[start : start + step])
        for step in (_chunk(len(classifier)),)
        for start in range(0, len(images), step)
    ]
    predicted, rank = (np.concatenate(part) for part in zip(*((p.predicted, p.rank) for p in parts), strict=True))
    return Classified(truth, predicted, rank, len(classifier))


def classified(scores: NDArray[np.floating], labels: Numbers) -> Classified:
    """Rank the classes by ``scores`` (N, C)."""
    truth = np.asarray(labels, dtype=np.int64)
    label, columns = truth[:, None], np.arange(scores.shape[1])
    own = np.take_along_axis(scores, label, axis=1)
    rank = ((scores > own) | ((scores == own) & (columns < label))).sum(axis=1)
    return Classified(truth, scores.argmax(axis=1), rank, scores.shape[1])


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
    """Rank all texts for every image and all images for every text, from one pass over blocks of the score matrix.

    ``images`` (N, d) and ``texts`` (U, d) of unit rows. Caption i has the wording ``text_of[i]`` and belongs to image
    ``image_of[i]``; captions come in the order of their images, and every image has one at least.

    Equal rows are scored once and counted as often as they are there, and a query's own pair is scored in one place for
    all comparisons, so equals are equal to the last bit, wherever a matrix product would have computed them.
    """
    wording, owner = np.asarray(text_of, dtype=np.int64), np.asarray(image_of, dtype=np.int64)
    pictures, picture_of = distinct(images)
    phrases, phrase_of = distinct(texts)
    phrase = phrase_of[wording]

    # The right pairs, each once, by picture; which of them a caption is, and the best of each image.
    cells, pair_of = np.unique(picture_of[owner] * len(phrases) + phrase, return_inverse=True)
    right = _Pairs(*np.divmod(cells, len(phrases)), _pair_scores(pictures, phrases, cells))
    own = right.score[pair_of]
    first = np.searchsorted(owner, np.arange(len(images)))
    best = np.maximum.reduceat(own, first)
    level = np.add.reduceat((own == best[owner]).astype(np.int64), first)

    # Everything above and level with them: captions for images, images for the right pairs.
    image_queries = _Queries(picture_of, best, np.bincount(phrase, minlength=len(phrases)))
    text_queries = _Queries(right.phrase, right.score, np.bincount(picture_of, minlength=len(pictures)))
    for rows in _blocks(len(pictures)):
        for columns in _blocks(len(phrases)):
            scores = pictures[rows] @ phrases[columns].T
            right.put(scores, rows, columns)
            image_queries.count(scores, rows, columns)
            text_queries.count(scores.T, columns, rows)
    image_above, image_level = image_queries.above, image_queries.level - level
    text_above, text_level = text_queries.above[pair_of], text_queries.level[pair_of] - 1
    return Retrieved(owner, image_above, image_level, level, text_above, text_level)


class _Pairs:
    """The right pairs of picture and phrase with their scores, in the order of pictures."""

    def __init__(self, picture: NDArray[np.int64], phrase: NDArray[np.int64], score: NDArray[np.float32]) -> None:
        self.picture, self.phrase, self.score = picture, phrase, score

    def put(self, scores: NDArray[np.float32], rows: slice, columns: slice) -> None:
        """Write the scores of those that are in a block over what the matrix product made of them."""
        start, stop = np.searchsorted(self.picture, (rows.start, rows.stop))
        phrase = self.phrase[start:stop]
        inside = start + np.flatnonzero((phrase >= columns.start) & (phrase < columns.stop))
        scores[self.picture[inside] - rows.start, self.phrase[inside] - columns.start] = self.score[inside]


class _Queries:
    """Counts, for queries that are each a row of the score matrix and a score, the answers above and level with it.

    ``weight``: how often each column is there.
    """

    def __init__(self, row: NDArray[np.int64], score: NDArray[np.float32], weight: NDArray[np.int64]) -> None:
        self._order = np.argsort(row, kind="stable")
        self._row, self._score, self._weight = row[self._order], score[self._order], weight
        self.above, self.level = np.zeros((2, len(row)), np.int64)

    def count(self, scores: NDArray[np.float32], rows: slice, columns: slice) -> None:
        start, stop = np.searchsorted(self._row, (rows.start, rows.stop))
        row, score = self._row[start:stop] - rows.start, self._score[start:stop, None]
        # Mostly each row is one query, and need not be copied.
        asked = scores if len(row) == len(scores) and (row == np.arange(len(row))).all() else scores[row]
        places, weight = self._order[start:stop], self._weight[columns]
        self.above[places] += _counted(asked > score, weight)
        self.level[places] += _counted(asked == score, weight)


def _counted(found: NDArray[np.bool_], weight: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the true columns of each row, columns counted with their weight: (n, m) and (m,) -> (n,)."""
    if (weight == 1).all():
        counts: NDArray[np.int64] = np.count_nonzero(found, axis=1)
        return counts
    rows, columns = np.nonzero(found)
    return np.bincount(rows, weights=weight[columns], minlength=len(found)).astype(np.int64)


def distinct(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The distinct ones of ``rows`` (n, d) in order of appearance, and which of them each row is: (n,)."""
    keys = np.ascontiguousarray(rows + np.float32(0)).view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))[:, 0]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rows if len(first) == len(rows) else rows[first[order]], rank[inverse]


def _pair_scores(
    pictures: NDArray[np.float32], phrases: NDArray[np.float32], cells: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The score of each right pair, a cell of the score matrix."""
    parts = [
        np.einsum("md,md->m", pictures[part // len(phrases)], phrases[part % len(phrases)])
        for part in np.array_split(cells, len(cells) * pictures.shape[1] // _CELLS + 1)
    ]
    return np.concatenate(parts)


def _blocks(rows: int, side: int | None = None) -> list[slice]:
    step = side or _SIDE
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

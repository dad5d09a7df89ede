"""Rank images and texts by the cosine of their vectors, exactly, without the whole N x M score matrix.

**Ties.** Web captions repeat word for word, so ties are the rule, and an order among equals would be an accident of the
sort. A query's recall is its *expectation over random orders of equals*: between g strictly better wrong answers, t
equal wrong and p equal right ones, the chance that a right one is among the first K. Its rank is the expectation, too.
Without ties these are the usual ones, and a model that gives all pairs one score gets exactly what guessing gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.measures import Average, Mean, Median, Metric

__all__ = ["Retrieved", "distinct", "nearest", "retrieve", "retrieve_among", "tie_rank", "tie_recall", "top_k"]

Numbers = Sequence[int] | NDArray[np.int64]
Ints = NDArray[np.int64]

_CELLS = 1 << 22  # of a score chunk: 16 MiB in float32
_SIDE = 1 << 11  # of a block of scores


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


@dataclass(frozen=True)
class Retrieved:
    """Ranks of the right answers to A image queries and T text queries (see the module docstring for g, t, p).

    ``image_of`` is the image of each text, ascending: the texts of an image lie side by side. Images that have a text
    are the image queries, in the same order; others are only there to be found.
    """

    image_of: Ints  # (T,)
    image_better: Ints  # (A,) g: wrong texts above the best right one
    image_equal: Ints  # (A,) t: wrong texts level with it
    image_right: Ints  # (A,) p: right texts level with it
    text_better: Ints  # (T,) wrong images above the right one
    text_equal: Ints  # (T,) wrong images level with it

    @cached_property
    def query_of(self) -> Ints:
        """Index of each text's image among the image queries: (T,)."""
        return np.cumsum(np.diff(self.image_of, prepend=self.image_of[:1]) > 0)

    def image_recall(self, k: int) -> NDArray[np.float64]:
        """Recall at ``k`` of the image of each text, (T,): CLIP_benchmark's ``image_retrieval_recall@k``."""
        return tie_recall(self.text_better, self.text_equal, np.ones_like(self.text_equal), k)

    def text_recall(self, k: int) -> NDArray[np.float64]:
        """Recall at ``k`` of any text of each image query, (A,): ``text_retrieval_recall@k``."""
        return tie_recall(self.image_better, self.image_equal, self.image_right, k)

    def metrics(self, ks: Sequence[int]) -> dict[str, Metric]:
        """Recall at each of ``ks`` in both directions and their mean, the main number of DataComp's retrieval sets.

        Images are resampled with their texts. The gallery stays whole: queries are resampled, not what they search.
        """
        images = len(self.image_better)
        texts = np.bincount(self.query_of, minlength=images)
        hits = {k: np.bincount(self.query_of, weights=self.image_recall(k), minlength=images) for k in ks}
        image: dict[int, Metric] = {k: Mean(found, texts) for k, found in hits.items()}
        text: dict[int, Metric] = {k: Mean(self.text_recall(k)) for k in ks}
        return {
            **{f"image_retrieval_recall@{k}": metric for k, metric in image.items()},
            **{f"text_retrieval_recall@{k}": metric for k, metric in text.items()},
            **{f"mean_recall@{k}": Average((image[k], text[k])) for k in ks},
        }

    def median_ranks(self) -> dict[str, Metric]:
        """The median rank of the image of a text and of the best text of an image; the first has rank 1."""
        images = len(self.image_better)
        by_text = tie_rank(self.text_better, self.text_equal, np.ones_like(self.text_equal))
        by_image = tie_rank(self.image_better, self.image_equal, self.image_right)
        return {
            "image_retrieval_median_rank": Median(by_text, self.query_of, images),
            "text_retrieval_median_rank": Median(by_image, np.arange(images), images),
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


def tie_rank(better: Ints, equal: Ints, right: Ints) -> NDArray[np.float64]:
    """Compute the expected rank of the first of ``right`` answers, shuffled with ``equal`` wrong ones below ``better``.

    The first of p in a random order of t + p is at (t + p + 1) / (p + 1).
    """
    ranks: NDArray[np.float64] = 1 + better + equal / (right + 1)
    return ranks


def retrieve_among(
    images: NDArray[np.float32], texts: NDArray[np.float32], text_of: Ints, image_of: Ints, chosen: NDArray[np.bool_]
) -> Retrieved:
    """Retrieve as if the ``chosen`` captions (m,) were all there are. Every image stays to be found."""
    used, wording = np.unique(text_of[chosen], return_inverse=True)
    return retrieve(images, texts[used], wording, image_of[chosen])


def retrieve(images: NDArray[np.float32], texts: NDArray[np.float32], text_of: Numbers, image_of: Numbers) -> Retrieved:
    """Rank all texts for every image and all images for every text, from one pass over blocks of the score matrix.

    ``images`` (N, d) and ``texts`` (U, d) of unit rows. Caption i has the wording ``text_of[i]`` and belongs to image
    ``image_of[i]``; captions come in the order of their images. An image without one is no query, but can be found.

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
    asking, first, captions = np.unique(owner, return_index=True, return_counts=True)
    best = np.maximum.reduceat(own, first)
    level = np.add.reduceat((own == np.repeat(best, captions)).astype(np.int64), first)

    # Everything above and level with them: captions for images, images for the right pairs.
    image_queries = _Queries(picture_of[asking], best, np.bincount(phrase, minlength=len(phrases)))
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

"""Measure word similarity: rank the pairs by their cosines, and compare with the ranks of their ratings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.correlation import RankCorrelation
from evaluation.embedded import Embedded
from evaluation.tasks.task import Scores
from evaluation.words import left_out, word_vectors
from infra.errors import DataError
from infra.measures import Metric

if TYPE_CHECKING:
    from evaluation.tasks.word_similarity import WordSimilarity

__all__ = ["measure"]


def measure(task: WordSimilarity, data: Embedded) -> Scores:
    """The correlation of all pairs, and by category. Raises DataError for a set of another kind."""
    data.check_kind(task.needs[0], "rated pairs of words")
    pairs, ratings = _pairs(data)
    vectors = word_vectors(data, task.templates)
    # Pair by pair, so that equal pairs have equal cosines to the last bit.
    cosines = np.einsum("nd,nd->n", vectors[pairs[:, 0]], vectors[pairs[:, 1]]).astype(np.float64)
    categories = data.categories
    rows: dict[str, dict[str, Metric]] = {
        name: {"spearman": RankCorrelation(cosines[own], ratings[own])} for name, own in categories.items()
    }
    unread = left_out(data)
    table = {
        "word1": [data.captions[one] for one in pairs[:, 0]],
        "word2": [data.captions[one] for one in pairs[:, 1]],
        "category": [next((name for name, own in categories.items() if own[at]), "") for at in range(len(pairs))],
        "rating": ratings,
        "cosine": cosines,
    }
    return Scores(
        metrics={"spearman": RankCorrelation(cosines, ratings)},
        groups={"categories": rows} if rows else {},
        tables={"pairs": table, **unread.tables},
        facts={"pairs": len(pairs), "words": len(data.captions), **unread.facts},
    )


def _pairs(data: Embedded) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The two words of each pair, numbers of distinct captions (n, 2), and its rating (n,)."""
    ratings = data.column("rating")
    counts = np.bincount(data.image_of, minlength=len(data.keys)).tolist()
    for key, rating, count in zip(data.keys, ratings, counts, strict=True):
        if count != 2 or type(rating) not in (int, float) or not np.isfinite(rating):
            raise DataError(
                f"sample {key!r} of {data.examples.name} is no rated pair",
                expected="two words, and a number as rating in its json",
                found=f"{count} words, {str(rating)[:100]}",
            )
    return data.text_of.reshape(-1, 2), np.array(ratings, np.float64)

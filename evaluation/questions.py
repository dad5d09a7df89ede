"""Questions by analogy: which images differ in one attribute alone, and whether words lead from one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.embedded import Embedded
from infra.ranking import tie_recall

__all__ = ["Question", "answered", "moved", "questions_of"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_CELLS = 1 << 22  # scores that are held at once: 16 MiB


@dataclass(frozen=True)
class Question:
    """All images with the same ``values`` ask for those that have ``word`` as their value of ``attribute`` instead.

    Words are numbers of captions, images and answers numbers of images.
    """

    values: tuple[int, ...]
    attribute: int
    word: int
    images: Ints
    answers: Ints


def questions_of(values: Ints) -> list[Question]:
    """All questions that images with these attribute values (n, a) can ask."""
    kinds, kind_of = np.unique(values, axis=0, return_inverse=True)
    members = np.split(np.argsort(kind_of, kind="stable"), np.cumsum(np.bincount(kind_of))[:-1])
    place = {tuple(kind): number for number, kind in enumerate(kinds.tolist())}
    words = [np.unique(column).tolist() for column in kinds.T]
    questions = []
    for kind, number in place.items():
        for attribute, others in enumerate(words):
            for word in others:
                target = place.get((*kind[:attribute], word, *kind[attribute + 1 :]))
                if word != kind[attribute] and target is not None:
                    questions.append(Question(kind, attribute, word, members[number], members[target]))
    return questions


def moved(data: Embedded, question: Question, weight: np.float32) -> Floats:
    """The asking images, less their own word, plus the other one: (images, d), not of unit length."""
    step = data.texts[question.word] - data.texts[question.values[question.attribute]]
    vectors: Floats = data.images[question.images] + weight * step
    return vectors


def answered(
    data: Embedded, question: Question, weight: np.float32, ks: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Recall at each of ``ks`` of each asking image, with the words (``analogy``) and without (``plain``)."""
    found: dict[str, NDArray[np.float64]] = {}
    for name, queries in (
        ("analogy", moved(data, question, weight)),
        ("plain", data.images[question.images]),
    ):
        ranks = np.concatenate(
            [
                _ranks(queries[rows], data.images, question.images[rows], question.answers)
                for rows in _blocks(len(queries), len(data.images))
            ]
        )
        better, equal, right = ranks.T
        found |= {f"{name}_recall@{k}": tie_recall(better, equal, right, k) for k in ks}
    return found


def _ranks(queries: Floats, images: Floats, own: Ints, answers: Ints) -> Ints:
    """For each query the wrong images above its best answer, wrong ones level with it, right ones level: (q, 3)."""
    scores = queries @ images.T
    scores[np.arange(len(own)), own] = -np.inf
    right = scores[:, answers]
    best = right.max(axis=1, keepdims=True)
    level_right = (right == best).sum(axis=1)
    above, level = (scores > best).sum(axis=1), (scores == best).sum(axis=1) - level_right
    return np.stack([above, level, level_right], axis=1)


def _blocks(rows: int, columns: int) -> list[slice]:
    step = max(1, _CELLS // columns)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

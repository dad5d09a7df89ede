"""Answer word analogies, a is to b as c is to which word?, by 3CosAdd and 3CosMul, a block of questions at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra import ranking

__all__ = ["METHODS", "Found", "Questions", "answered"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

METHODS = ("3cosadd", "3cosmul", "only_c")

_CELLS = 1 << 21  # scores of a block: 8 MiB, of which some five arrays are held
_EPSILON = np.float32(0.001)  # Levy and Goldberg's, against division by 0


@dataclass(frozen=True)
class Questions:
    """q questions by numbers of words: ``given`` are a, b and c, (q, 3).

    Answer i, ``right[i]``, is one of question ``of[i]``; both (r,), in rising order of questions.
    """

    given: Ints
    right: Ints
    of: Ints


@dataclass(frozen=True)
class Found:
    """A method's first answer to each question, (q,), the number of a word, and the chance that it is right, (q,)."""

    words: Ints
    credit: NDArray[np.float64]


def answered(vectors: Floats, questions: Questions) -> dict[str, Found]:
    """The answers of each of the :data:`METHODS` among the words of ``vectors``, (v, d) unit rows.

    3CosAdd (Mikolov et al., 2013) takes the word x of the highest cos(x, b) - cos(x, a) + cos(x, c); 3CosMul (Levy and
    Goldberg, 2014) that of p(x, b) p(x, c) / (p(x, a) + 0.001) with p = (1 + cos) / 2; ``only_c`` of cos(x, c) alone,
    a baseline that knows nothing of the relation (Linzen, 2016). The words given are no answers, nor are those of the
    same vector. Among words that score level any may be taken: the credit is the share that is right.
    """
    # Words of one vector are one column, so that they score level to the last bit.
    columns, column_of = ranking.distinct(vectors)
    sizes = np.bincount(column_of, minlength=len(columns)).astype(np.float32)
    _, first = np.unique(column_of, return_index=True)
    parts: dict[str, list[Found]] = {method: [] for method in METHODS}
    for rows in _blocks(len(questions.given), len(columns)):
        given = column_of[questions.given[rows]]
        answers = slice(*np.searchsorted(questions.of, [rows.start, rows.stop]))
        right = np.zeros((len(given), len(columns)), np.float32)
        np.add.at(right, (questions.of[answers] - rows.start, column_of[questions.right[answers]]), 1)
        for method, scores in _scored(columns, given):
            np.put_along_axis(scores, given, -np.inf, axis=1)
            best = (scores == scores.max(axis=1, keepdims=True)) & np.isfinite(scores)
            taken = (best * sizes).sum(axis=1, dtype=np.float64)
            held = (best * right).sum(axis=1, dtype=np.float64)
            credit = np.divide(held, taken, out=np.zeros_like(held), where=taken > 0)
            parts[method].append(Found(first[scores.argmax(axis=1)], credit))
    return {
        method: Found(np.concatenate([one.words for one in found]), np.concatenate([one.credit for one in found]))
        for method, found in parts.items()
    }


def _scored(columns: Floats, given: Ints) -> Iterator[tuple[str, Floats]]:
    """The scores of all columns, (b, columns), by each method."""
    words, place = np.unique(given, return_inverse=True)
    cosines = columns[words] @ columns.T
    a, b, c = (cosines[numbers] for numbers in place.reshape(given.shape).T)
    yield "3cosadd", b - a + c
    yield "3cosmul", (1 + b) * (1 + c) / 4 / ((1 + a) / 2 + _EPSILON)
    yield "only_c", c


def _blocks(rows: int, columns: int) -> list[slice]:
    step = max(1, _CELLS // columns)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

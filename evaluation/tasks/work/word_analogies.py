"""Measure word analogies: the share of questions whose answer is found, by section and by category."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.embedded import Embedded
from evaluation.tasks.task import Columns, Scores
from evaluation.word_analogies import Found, Questions, answered
from evaluation.words import left_out, word_vectors
from infra.errors import DataError
from infra.measures import Mean, Metric

if TYPE_CHECKING:
    from evaluation.tasks.word_analogies import WordAnalogies

__all__ = ["measure"]

Ints = NDArray[np.int64]


def measure(task: WordAnalogies, data: Embedded) -> Scores:
    """The accuracies of all questions, by section and by category. Raises DataError for a set of another kind."""
    data.check_kind(task.needs[0], "word analogies")
    questions, section = _questions(data)
    found = answered(word_vectors(data, task.templates), questions)
    # A pair is asked of by many others: what is drawn anew for an interval are the pairs.
    firsts = questions.right[np.searchsorted(questions.of, np.arange(len(section)))]
    asked = np.stack([section, questions.given[:, 2], firsts], axis=1)
    pairs, pair_of = np.unique(asked, axis=0, return_inverse=True)
    pair_of = pair_of.ravel()
    sections = {data.keys[one]: pairs[:, 0] == one for one in np.unique(section).tolist()}
    parts = {name: own[pairs[:, 0]] for name, own in data.categories.items()}
    unread = left_out(data)
    return Scores(
        metrics=_means(found, pair_of, np.ones(len(pairs), np.bool_)),
        groups={
            "sections": {name: _means(found, pair_of, own) for name, own in sections.items()},
            **({"categories": {name: _means(found, pair_of, own) for name, own in parts.items()}} if parts else {}),
        },
        tables={"questions": _table(data, questions, section, found), **unread.tables},
        facts={
            "questions": len(section),
            "asked_pairs": len(pairs),
            "words": len(data.captions),
            "unanswerable": _unanswerable(questions),
            **unread.facts,
        },
    )


def _questions(data: Embedded) -> tuple[Questions, Ints]:
    """All questions by numbers of the set's distinct words, and the section of each (q,)."""
    given: list[list[int]] = []
    right: list[int] = []
    of: list[int] = []
    section: list[int] = []
    texts = np.split(data.text_of, np.searchsorted(data.image_of, np.arange(1, len(data.keys))))
    for number, (key, asked, words) in enumerate(zip(data.keys, data.column("questions"), texts, strict=True)):
        for question in asked if isinstance(asked, list) else [None]:
            if not _asks(question, len(words)):
                raise DataError(
                    f"section {key!r} of {data.examples.name} has a question that is none",
                    expected="a list of four or more numbers of the section's words",
                    found=str(question)[:100],
                )
            numbers = words[question].tolist()
            right += dict.fromkeys(numbers[3:])
            of += [len(given)] * len({*numbers[3:]})
            given.append(numbers[:3])
            section.append(number)
    if not given:
        raise DataError(f"test set {data.examples.name!r} has no word analogies", expected="a question at least")
    return Questions(np.array(given), np.array(right), np.array(of)), np.array(section)


def _asks(question: Any, words: int) -> bool:  # noqa: ANN401 - JSON
    whole = isinstance(question, list) and len(question) > 3 and all(type(word) is int for word in question)
    return whole and all(0 <= word < words for word in question)


def _means(found: Mapping[str, Found], pair_of: Ints, own: NDArray[np.bool_]) -> dict[str, Metric]:
    """The accuracy of each method on the questions of these asked pairs."""
    sizes = np.bincount(pair_of, minlength=len(own))[own].astype(np.float64)
    totals = {method: np.bincount(pair_of, one.credit, minlength=len(own))[own] for method, one in found.items()}
    return {f"acc_{method}": Mean(total, sizes) for method, total in totals.items()}


def _unanswerable(questions: Questions) -> int:
    """The number of questions whose right answers are all among the words given, and so never right."""
    free = (questions.given[questions.of] != questions.right[:, None]).all(axis=1)
    return int((np.bincount(questions.of, free) == 0).sum())


def _table(data: Embedded, questions: Questions, section: Ints, found: Mapping[str, Found]) -> Columns:
    """A row for each question: its section, words, right answers, and each method's answer with its credit."""
    starts = np.searchsorted(questions.of, np.arange(1, len(section)))
    words = np.array(data.captions, object)
    return {
        "section": [data.keys[one] for one in section],
        **{name: words[numbers].tolist() for name, numbers in zip("abc", questions.given.T, strict=True)},
        "right": [words[numbers].tolist() for numbers in np.split(questions.right, starts)],
        **{method: words[one.words].tolist() for method, one in found.items()},
        **{f"{method}_credit": one.credit for method, one in found.items()},
    }

"""Measure the answers to questions about images, and what not seeing these would give."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.embedded import Embedded
from evaluation.tasks.task import Scores
from infra.errors import DataError
from infra.measures import Mean, Metric

if TYPE_CHECKING:
    from evaluation.tasks.vqa import VisualQuestionAnswering

__all__ = ["best_constant", "measure"]


def measure(task: VisualQuestionAnswering, data: Embedded) -> Scores:
    """All metrics of a set of questions. Raises DataError if an image has another number of answers than questions."""
    asked, right = data.captions_of_images(), _answers(data)
    owner = np.repeat(np.arange(len(asked)), [len(own) for own in asked])
    questions, answers = list(chain(*asked)), list(chain(*right))
    model = data.matcher()
    known = task.candidates or tuple(model.answers)

    def answered(questions: list[list[str]]) -> list[str]:
        seen = data.seen_by(model)
        if task.candidates:
            return [known[number] for number in model.rank_answers(seen, questions, known).argmax(axis=1)]
        return [known[number] for number in model.answer(seen, questions).argmax(axis=1)]

    given = answered(asked)
    # Beside the image half the set away: neighbours may be of one group.
    half = len(asked) // 2
    turned = answered(_rolled(asked, half))
    of_other = list(chain(*_rolled(right, half)))
    other_owner = np.concatenate([np.flatnonzero(owner == (one + half) % len(asked)) for one in range(len(asked))])
    elsewhere = np.empty(len(questions), np.bool_)
    elsewhere[other_owner] = np.array(turned) == np.array(of_other)
    hits = {
        "acc": np.array(given) == np.array(answers),
        "blind_acc": best_constant(questions, answers),
        "acc_other_image": elsewhere,
    }
    if min(map(len, asked)) > 1:
        hits["unread_acc"] = best_constant([data.keys[one] for one in owner], answers)
    metrics = {name: _mean(found, owner, np.arange(len(asked))) for name, found in hits.items()}
    table = {
        "key": [data.keys[one] for one in owner],
        "question": questions,
        "answer": answers,
        "given": given,
    }
    unknown = sum(answer not in known for answer in answers)
    return Scores(
        metrics=metrics,
        groups=_by_category(data, hits, owner),
        tables={"answers": table},
        facts={"images": len(asked), "questions": len(questions), "answers_the_model_has_not": unknown},
    )


def best_constant(known: Sequence[str], answers: Sequence[str]) -> NDArray[np.bool_]:
    """Return a mask of what is right (q,) if where equal things are known the most frequent answer is always given."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one, answer in zip(known, answers, strict=True):
        counts[one][answer] += 1
    best = {one: found.most_common(1)[0][0] for one, found in counts.items()}
    return np.array([best[one] == answer for one, answer in zip(known, answers, strict=True)])


def _answers(data: Embedded) -> list[list[str]]:
    """The answers of each image."""
    answers = data.column("answers")
    for key, own, given in zip(data.keys, data.captions_of_images(), answers, strict=True):
        if not isinstance(given, list) or len(given) != len(own):
            raise DataError(
                f"sample {key!r} of {data.examples.name} has not an answer for each question",
                expected=f"{len(own)} answers in its json",
                found=str(given)[:200],
            )
    return answers


def _rolled(lists: list[list[str]], by: int) -> list[list[str]]:
    return lists[by:] + lists[:by]


def _mean(hits: NDArray[np.bool_], owner: NDArray[np.int64], images: NDArray[np.int64]) -> Mean:
    """The share of right answers to the questions of these images."""
    size = int(owner.max()) + 1
    right, asked = np.bincount(owner, weights=hits, minlength=size), np.bincount(owner, minlength=size)
    return Mean(right[images], asked[images].astype(np.float64))


def _by_category(
    data: Embedded, hits: dict[str, NDArray[np.bool_]], owner: NDArray[np.int64]
) -> dict[str, dict[str, dict[str, Metric]]]:
    """The table by category; empty if the set has none."""
    rows: dict[str, dict[str, Metric]] = {
        name: {metric: _mean(values, owner, np.flatnonzero(own)) for metric, values in hits.items()}
        for name, own in data.categories.items()
    }
    return {"categories": rows} if rows else {}

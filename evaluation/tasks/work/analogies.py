"""Measure analogies: the recall of each question, put together by attribute."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation import galleries
from evaluation.embedded import Embedded
from evaluation.questions import Question, answered, questions_of
from evaluation.tasks.task import Columns, Scores
from infra.errors import DataError
from infra.measures import Mean, Metric

if TYPE_CHECKING:
    from evaluation.tasks.analogies import Analogies

__all__ = ["measure"]


def measure(task: Analogies, data: Embedded) -> Scores:
    """Recall of every question, by attribute and in all. Raises DataError for a set that has none."""
    names, values = _attributes(data, task.needs[0])
    questions = questions_of(values)
    if not questions:
        raise DataError(
            f"test set {data.examples.name!r} has no analogies",
            expected="images that differ in one attribute alone",
        )
    found = [answered(data, question, np.float32(task.weight), task.recall_at) for question in questions]
    sizes = np.zeros((len(names), len(data.keys)))
    totals: dict[str, NDArray[np.float64]] = {}
    for question, recalls in zip(questions, found, strict=True):
        sizes[question.attribute, question.images] += 1
        for name, recall in recalls.items():
            totals.setdefault(name, np.zeros_like(sizes))[question.attribute, question.images] += recall
    return Scores(
        metrics=_means({name: total.sum(axis=0) for name, total in totals.items()}, sizes.sum(axis=0)),
        groups={
            "attributes": {
                name: _means({metric: total[place] for metric, total in totals.items()}, sizes[place])
                for place, name in enumerate(names)
                if sizes[place].any()
            }
        },
        tables={"questions": _table(data, names, questions, found)},
        figures={"analogies": galleries.analogies(data, questions, np.float32(task.weight))},
        facts={"images": len(data.keys), "questions": int(sizes.sum())},
    )


def _attributes(data: Embedded, kind: str) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the a attributes, and each image's values as numbers of captions: (n, a)."""
    data.check_kind(kind, "attributes")
    names = json.loads(data.metadata[0] or "{}").get("attributes")
    counts = np.bincount(data.image_of, minlength=len(data.keys))
    for key, text, count in zip(data.keys, data.metadata, counts.tolist(), strict=True):
        own = json.loads(text or "{}").get("attributes")
        if not isinstance(own, list) or own != names or len(own) != count:
            raise DataError(
                f"sample {key!r} of {data.examples.name} does not have the attributes of the set",
                expected=f"{json.dumps(names)} as attributes in its json, and a line of its txt for each",
                found=f"{json.dumps(own)} and {count} lines",
            )
    return [str(name) for name in names], data.text_of.reshape(len(data.keys), -1)


def _means(totals: dict[str, NDArray[np.float64]], sizes: NDArray[np.float64]) -> dict[str, Metric]:
    """The mean over the questions of all images that ask any."""
    asking = sizes > 0
    return {name: Mean(total[asking], sizes[asking]) for name, total in totals.items()}


def _table(
    data: Embedded, names: list[str], questions: list[Question], found: list[dict[str, NDArray[np.float64]]]
) -> Columns:
    """A row for each question: what images show, the attribute, the other word, how many ask and what they find."""
    words = [[data.captions[value] for value in question.values] for question in questions]
    return {
        "images_of": [" ".join(each) for each in words],
        "attribute": [names[question.attribute] for question in questions],
        "word": [each[question.attribute] for each, question in zip(words, questions, strict=True)],
        "other_word": [data.captions[question.word] for question in questions],
        "asking": [len(question.images) for question in questions],
        "answers": [len(question.answers) for question in questions],
        **{name: [float(recalls[name].mean()) for recalls in found] for name in found[0]},
    }

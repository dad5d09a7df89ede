"""Analogies: the image of a blue car, less the word "blue", plus the word "red", should be nearest to red cars.

Kiros et al. (2014) show a handful of them. Here every image asks for each other value of each of its attributes that
some image has beside the same rest, and finds them among all images but itself. ``plain_recall@k`` is the baseline that
leaves the words out: how often the image finds them as it is.

A set for analogies has an attribute's value in each line of a sample's ``txt`` and the attributes' names in its
``json``: ``blue``, ``car`` and ``{"attributes": ["colour", "shape"]}``, the same for all images.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from evaluation.tasks.task import Columns, Scores, Task
from infra.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evaluation.embedded import Embedded
    from evaluation.questions import Question
    from infra.measures import Metric

__all__ = ["Analogies"]


class Analogies(Task):
    """Recall of the images that another word for one attribute asks for; a row per attribute, and one per question."""

    kind: ClassVar[str] = "analogies"

    recall_at: tuple[int, ...] = Field((1, 5), min_length=1, description="the k of recall@k")
    weight: float = Field(1.0, gt=0, description="how much the words count beside the image; all are unit vectors")

    def evaluate(self, data: Embedded) -> Scores:
        # Here, because they load numpy and matplotlib and recipes import this module.
        import numpy as np

        from evaluation import galleries
        from evaluation.questions import answered, questions_of

        names, values = self._attributes(data)
        questions = questions_of(values)
        if not questions:
            raise DataError(
                f"test set {data.examples.name!r} has no analogies",
                expected="images that differ in one attribute alone",
            )
        found = [answered(data, question, np.float32(self.weight), self.recall_at) for question in questions]
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
            figures={"analogies": galleries.analogies(data, questions, np.float32(self.weight))},
            facts={"images": len(data.keys), "questions": int(sizes.sum())},
        )

    def _attributes(self, data: Embedded) -> tuple[list[str], NDArray[np.int64]]:
        """Names of the a attributes, and each image's values as numbers of captions: (n, a)."""
        import numpy as np

        if data.examples.kind != self.kind:
            raise DataError(
                f"test set {data.examples.name!r} has no attributes",
                expected=f"{self.kind} in dataset_type.txt",
                found=data.examples.kind,
            )
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
    from infra.measures import Mean

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

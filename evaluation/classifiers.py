"""A vector for each class of a test set: from its own prompts, the task's, or those of files, by language."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.embedded import Embedded
from infra.errors import DataError
from infra.formats.testset import prompts
from infra.formats.testset.prompt_files import read_prompts
from infra.metrics import ensemble

if TYPE_CHECKING:
    from evaluation.tasks.by_texts import ByTexts

__all__ = ["class_vectors", "classifiers"]

Floats = NDArray[np.float32]


def classifiers(task: ByTexts, data: Embedded) -> dict[str, Floats]:
    """A unit vector for each class, (classes, d), by language, that of the task first.

    Raises DataError for a set without classes, or texts that do not fit them.
    """
    if not data.classes or (data.prompts is None and task.templates is None and task.classnames is None):
        return {task.language: data.classifier}
    if data.prompts is None:
        return {task.language: class_vectors(data, _of_task(task, data))}
    paths = [file.path.removeprefix("data/") for file in data.prompts.files("data/")]
    own = task.templates or data.examples.templates
    store = data.prompts.store.child("data")
    found = read_prompts(store, paths, data.examples.name, task.classnames or data.classes, own, task.language)
    if task.language not in found:
        raise DataError(
            f"there are no prompts in {task.language!r}, the language of the task",
            expected="the field language, one of those of the prompts",
            found=", ".join(found),
        )
    codes = sorted(found, key=lambda code: (code != task.language, code))
    return {code: class_vectors(data, found[code]) for code in codes}


def class_vectors(data: Embedded, given: Sequence[Sequence[str]]) -> Floats:
    """The normalised mean of each class's prompts, however many it has; equal prompts are encoded once."""
    every = [text for texts in given for text in texts]
    place = {text: number for number, text in enumerate(dict.fromkeys(every))}
    vectors = data.encode_texts(list(place))[[place[text] for text in every]]
    ends = accumulate(len(texts) for texts in given)
    return np.concatenate(
        [ensemble(vectors[end - len(texts) : end], 1) for texts, end in zip(given, ends, strict=True)]
    )


def _of_task(task: ByTexts, data: Embedded) -> list[list[str]]:
    """The prompts of each class by the task's fields. Raises DataError for other than a name for each class."""
    names = task.classnames or data.classes
    if len(names) != len(data.classes):
        raise DataError(
            f"the task names other classes than {data.examples.name} has",
            expected=f"{len(data.classes)} class names", found=f"{len(names)}",
        )  # fmt: skip
    templates = task.templates or data.examples.templates
    return [prompts([name], templates) for name in names]

"""Zero-shot classification: classes become sentences, an image goes to the nearest (Radford et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from evaluation.tasks.task import Columns, Scores, Task
from infra.formats.testset import prompts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evaluation.embedded import Embedded
    from infra.metrics import Classified

__all__ = ["ZeroShot"]


class ZeroShot(Task):
    """Accuracy and mean per-class recall; a row per image (to compare two runs pairwise) and one per class."""

    kind: ClassVar[str] = "zeroshot_classification"

    templates: tuple[str, ...] | None = Field(
        None,
        description="prompts with {c} for the class, which need the model; none: the set's, or the 80 of ImageNet",
    )

    @field_validator("templates")
    @classmethod
    def _hold_the_class(cls, templates: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if templates is not None and (not templates or any("{c}" not in template for template in templates)):
            raise ValueError("every template must hold {c}, and there must be one")
        return templates

    def evaluate(self, data: Embedded) -> Scores:
        # Here, because they load numpy and matplotlib and recipes import this module.
        from evaluation import figures, galleries
        from infra import metrics

        # One unit vector per class, and every image to its nearest.
        classes = data.classes
        classifier = self._classifier(data)
        classified = metrics.classify(data.images, classifier, data.labels)
        confusion = metrics.confusion_matrix(classified)
        logits = galleries.Logits(data.images, classifier, data.logit_scale)

        return Scores(
            metrics=classified.metrics(),
            tables={
                "predictions": _predictions(data.keys, classified, classes)
                | {"confidence": logits.confidence(classified.predicted)},
                "classes": _per_class(confusion, classes),
            },
            figures={
                "confusion": figures.confusion(confusion, classes),
                "predictions": galleries.predictions(data.examples, classified, logits),
            },
            facts={"images": len(data.keys), "classes": len(classes)},
        )

    def _classifier(self, data: Embedded) -> NDArray[np.float32]:
        """A unit vector for each class: (classes, d). Raises DataError for a set without classes."""
        from infra import metrics

        if self.templates is None or not data.classes:
            return data.classifier
        return metrics.ensemble(data.encode_texts(prompts(data.classes, self.templates)), len(data.classes))


def _predictions(keys: Sequence[str], classified: Classified, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "key": keys,
        "label": classified.labels,
        "predicted": classified.predicted,
        "rank": classified.rank,  # of the true class, 0 = first
        "class": [classes[label] for label in classified.labels],
        "predicted_class": [classes[label] for label in classified.predicted],
    }


def _per_class(confusion: NDArray[np.int64], classes: Sequence[str]) -> Columns:
    """A row per class: images, correct ones, recall, and the wrong class most often predicted ("" if none is)."""
    images, correct = confusion.sum(axis=1), confusion.diagonal()
    wrong = confusion.copy()
    wrong.flat[:: len(classes) + 1] = 0  # the diagonal
    return {
        "class": list(classes),
        "images": images,
        "right": correct,
        "recall": [hits / total if total else float("nan") for hits, total in zip(correct, images, strict=True)],
        "taken_for": [classes[other] if row[other] else "" for row, other in zip(wrong, wrong.argmax(1), strict=True)],
        "taken_for_images": wrong.max(axis=1),
    }

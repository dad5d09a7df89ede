"""Zero-shot classification: classes become sentences, an image goes to the nearest (Radford et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from evaluation.tasks.task import Columns, Scores, Task
from infra.errors import DataError
from infra.formats.testset import EvalSet, prompts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from infra.encoder import Encoder
    from infra.metrics import Classified

__all__ = ["ZeroShot"]


class ZeroShot(Task):
    """Accuracy and mean per-class recall; a row per image (to compare two runs pairwise) and one per class."""

    kind: ClassVar[str] = "zeroshot_classification"

    templates: tuple[str, ...] | None = Field(
        None,
        description="prompts with {c} for the class; none: those of the test set, else the 80 of CLIP's ImageNet",
    )

    @field_validator("templates")
    @classmethod
    def _hold_the_class(cls, templates: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if templates is not None and (not templates or any("{c}" not in template for template in templates)):
            raise ValueError("every template must hold {c}, and there must be one")
        return templates

    def evaluate(self, encoder: Encoder, examples: EvalSet) -> Scores:
        # Here, because they load numpy and matplotlib and recipes import this module.
        from evaluation import figures, galleries
        from evaluation.embed import embed_images
        from infra import metrics

        _check(examples)
        classes = examples.classes

        # The classifier: one unit vector per class, from all its prompts.
        sentences = prompts(classes, self.templates or examples.templates)
        classifier = metrics.ensemble(encoder.encode_texts(sentences), len(classes))

        # Every image to its nearest class.
        images = embed_images(encoder, examples)
        classified = metrics.classify(images.features, classifier, images.labels)
        confusion = metrics.confusion_matrix(classified)
        logits = galleries.Logits(images.features, classifier, encoder.logit_scale)

        return Scores(
            metrics=classified.metrics(),
            tables={
                "predictions": _predictions(images.keys, classified, classes),
                "classes": _per_class(confusion, classes),
            },
            figures={
                "confusion": figures.confusion(confusion, classes),
                "predictions": galleries.predictions(examples, classified, logits),
            },
            facts={
                "images": len(images.keys),
                "classes": len(classes),
                "prompts_per_class": len(sentences) // len(classes),
            },
        )


def _check(examples: EvalSet) -> None:
    if examples.retrieval or not examples.classes:
        raise DataError(
            f"test set {examples.name!r} has no classes",
            expected="a classification set with classnames.txt",
            found="a retrieval set" if examples.retrieval else "no class in classnames.txt",
            fix="evaluate it with evaluation.tasks.Retrieval" if examples.retrieval else "",
        )


def _predictions(keys: Sequence[str], classified: Classified, classes: Sequence[str]) -> Columns:
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

"""Image-text retrieval: the images nearest to each caption, the captions nearest to each image.

``image_retrieval_recall@k`` queries with a text, ``text_retrieval_recall@k`` with an image: a query counts if any of
its own answers is among the first k. For answers of equal score see :mod:`infra.metrics`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from evaluation.tasks.task import Columns, Scores, Task
from infra.errors import DataError

if TYPE_CHECKING:
    from evaluation.embedded import Embedded
    from infra.metrics import Retrieved

__all__ = ["Retrieval"]


class Retrieval(Task):
    """Recall in both directions and their mean; a row per query, with the rank of its best answer."""

    kind: ClassVar[str] = "zeroshot_retrieval"

    recall_at: tuple[int, ...] = Field((1, 5, 10), min_length=1, description="the k of recall@k")

    def evaluate(self, data: Embedded) -> Scores:
        # Here, because they load numpy and matplotlib and recipes import this module.
        from evaluation import galleries
        from infra import metrics

        if not data.examples.retrieval:
            raise DataError(
                f"test set {data.examples.name!r} has no captions",
                expected="retrieval in dataset_type.txt",
                fix="evaluate it with evaluation.tasks.ZeroShot",
            )
        retrieved = metrics.retrieve(data.images, data.texts, data.text_of, data.image_of)
        return Scores(
            metrics=retrieved.metrics(self.recall_at),
            tables={"image_queries": _image_queries(data, retrieved), "text_queries": _text_queries(data, retrieved)},
            figures=galleries.retrieval(data),
            facts={
                "images": len(data.keys),
                "captions": len(data.text_of),
                "distinct_captions": len(data.captions),
            },
        )


def _image_queries(data: Embedded, retrieved: Retrieved) -> Columns:
    """For each image: wrong captions above its best own one, wrong and own ones level with it."""
    return {
        "key": data.keys,
        "better": retrieved.image_better,
        "equal": retrieved.image_equal,
        "right": retrieved.image_right,
    }


def _text_queries(data: Embedded, retrieved: Retrieved) -> Columns:
    """For each caption: wrong images above its own, and level with it."""
    return {
        "key": [data.keys[image] for image in data.image_of],
        "caption": [data.captions[text] for text in data.text_of],
        "better": retrieved.text_better,
        "equal": retrieved.text_equal,
    }

"""Image-text retrieval: the images nearest to each caption, the captions nearest to each image.

``image_retrieval_recall@k`` queries with a text, ``text_retrieval_recall@k`` with an image: a query counts if any of
its own answers is among the first k. For answers of equal score see :mod:`infra.ranking`.

Captions may be in several languages, which the samples' ``json`` names: ``{"languages": ["en", "de"]}``, one for each
caption, or ``{"language": "de"}`` for all of a sample. Each language is then measured as a set of its own, too: its
captions search all images, and images search its captions.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from evaluation.tasks.task import Task

__all__ = ["Retrieval"]


class Retrieval(Task):
    """Retrieval in both directions, recall and median rank; a row per query, and one per language with intervals."""

    kind: ClassVar[str] = "zeroshot_retrieval"
    implementation: ClassVar[str] = "evaluation.tasks.work.retrieval:measure"
    needs: ClassVar[tuple[str, ...]] = ("retrieval",)
    main: ClassVar[str] = "mean_recall@1"
    units: ClassVar[str] = "images and captions, half each"
    regions_by: ClassVar[str] = "rerank"

    recall_at: tuple[int, ...] = Field((1, 5, 10), min_length=1, description="the k of recall@k")

    rerank: int | None = Field(
        None, ge=1, description="first answers of each query that the model's fusion encoder ranks anew, as ALBEF does"
    )

    def inputs(self) -> tuple[str, ...]:
        return () if self.rerank is None else ("model",)

    def reads_regions(self) -> bool:
        return self.rerank is not None

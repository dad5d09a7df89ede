"""k nearest neighbours: an image gets the class of the training images around it; nothing is learned."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from evaluation.tasks.task import Task

__all__ = ["NearestNeighbours"]


class NearestNeighbours(Task):
    """k nearest neighbours, whose votes weigh exp(cosine / temperature) (Wu et al., 2018; DINO)."""

    kind: ClassVar[str] = "knn"
    implementation: ClassVar[str] = "evaluation.tasks.work.neighbours:measure"
    needs: ClassVar[tuple[str, ...]] = ("classification",)
    main: ClassVar[str] = "knn_acc1"

    k: int = Field(20, ge=1, description="neighbours")
    temperature: float = Field(0.07, gt=0, description="how fast votes fall with distance")
    train: str = Field("train", description="split of the neighbours, which must be embedded, too")

    def splits(self) -> tuple[str, ...]:
        return self.split, self.train

"""k nearest neighbours: an image gets the class of the training images around it; nothing is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from evaluation.tasks.task import Scores, Task

if TYPE_CHECKING:
    from evaluation.embedded import Embedded

__all__ = ["NearestNeighbours"]


class NearestNeighbours(Task):
    """Each neighbour votes for its class with weight exp(cosine / temperature) (Wu et al., 2018; DINO)."""

    kind: ClassVar[str] = "knn"
    needs: ClassVar[tuple[str, ...]] = ("classification",)
    main: ClassVar[str] = "knn_acc1"

    k: int = Field(20, ge=1, description="neighbours")
    temperature: float = Field(0.07, gt=0, description="how fast votes fall with distance")
    train: str = Field("train", description="split of the neighbours, which must be embedded, too")

    def splits(self) -> tuple[str, ...]:
        return self.split, self.train

    def evaluate(self, data: Embedded) -> Scores:
        from evaluation.tasks.work.neighbours import measure  # loads numpy

        return measure(self, data)

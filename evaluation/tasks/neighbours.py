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

    k: int = Field(20, ge=1, description="neighbours")
    temperature: float = Field(0.07, gt=0, description="how fast votes fall with distance")
    train: str = Field("train", description="split of the neighbours, which must be embedded, too")

    def evaluate(self, data: Embedded) -> Scores:
        import numpy as np

        from infra import metrics, ranking

        learned = data.split(self.train)
        cosines, nearest = ranking.nearest(data.images, learned.images, self.k)
        votes = np.zeros((len(data.images), len(data.classes)), np.float32)
        rows = np.arange(len(votes))
        for neighbour in range(nearest.shape[1]):
            votes[rows, learned.labels[nearest[:, neighbour]]] += np.exp(
                (cosines[:, neighbour] - cosines[:, 0]) / self.temperature  # the nearest has weight 1
            )
        found = metrics.classified(votes, data.labels).metrics()
        return Scores(
            metrics={f"knn_{name}": metric for name, metric in found.items() if name != "acc5"},
            facts={"neighbours_from": len(learned.keys)},
        )

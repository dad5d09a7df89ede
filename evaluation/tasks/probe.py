"""Linear probes: how far a linear classifier gets that learns on the vectors (Radford et al., 2021, appendix A.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from evaluation.tasks.task import Columns, Scores, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evaluation.embedded import Embedded

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]

__all__ = ["FewShot", "LinearProbe"]


class LinearProbe(Task):
    """Logistic regression by L-BFGS, its L2 penalty the best on a part of the training split, then fitted on all."""

    kind: ClassVar[str] = "linear_probe"

    train: str = Field("train", description="split it learns from, which must be embedded, too")
    validation: float = Field(0.2, gt=0, lt=1, description="share of that split on which the penalty is chosen")
    seed: int = Field(0, description="seed of the choice of that part")

    def evaluate(self, data: Embedded) -> Scores:
        import numpy as np

        from evaluation.tasks import logistic
        from infra import metrics

        learned = data.split(self.train)
        random = np.random.default_rng(self.seed)
        order = random.permutation(len(learned.labels))
        held, rest = np.split(order, [max(1, round(self.validation * len(order)))])
        strength = logistic.best_strength(learned.images, learned.labels, rest, held)
        scores = logistic.class_scores(learned.images, learned.labels, strength, data.images, len(data.classes))
        classified = metrics.classified(scores, data.labels)
        return Scores(
            metrics={f"lp_{name}": metric for name, metric in classified.metrics().items()},
            tables={"predictions": _predictions(data, classified.predicted)},
            facts={"learned_from": len(order), "inverse_penalty": strength},
        )


class FewShot(Task):
    """The same from ``shots`` images of each class, the mean over several draws of them."""

    kind: ClassVar[str] = "few_shot"

    shots: int = Field(16, ge=1, description="images of each class to learn from")
    draws: int = Field(3, ge=1, description="draws of these images; the accuracy is the mean over them")
    train: str = Field("train", description="split they are drawn from, which must be embedded, too")
    seed: int = Field(0, description="seed of the draws")

    def evaluate(self, data: Embedded) -> Scores:
        import numpy as np

        from evaluation.tasks import logistic

        learned = data.split(self.train)
        random = np.random.default_rng(self.seed)
        right = np.zeros(len(data.labels))
        for _ in range(self.draws):
            # As many to learn from as asked for, and up to four of the others of each class to choose the penalty on.
            order = random.permutation(len(learned.labels))
            place = logistic.place_in_class(learned.labels[order])
            few, held = order[place < self.shots], order[(place >= self.shots) & (place < self.shots + 4)]
            strength = logistic.best_strength(learned.images, learned.labels, few, held) if len(held) else 1.0
            scores = logistic.class_scores(
                learned.images[few], learned.labels[few], strength, data.images, len(data.classes)
            )
            right += scores.argmax(axis=1) == data.labels
        return Scores.means({f"few_shot_acc1@{self.shots}": right / self.draws})


def _predictions(data: Embedded, predicted: Ints) -> Columns:
    return {
        "key": data.keys,
        "class": [data.classes[label] for label in data.labels],
        "predicted_class": [data.classes[label] for label in predicted],
    }

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

_STRENGTHS = tuple(10.0**power for power in range(-6, 7, 2))  # where CLIP's search begins; C = 1 / L2
_STEPS_PER_DECADE = 8  # where it ends
_ITERATIONS = 1000


class LinearProbe(Task):
    """Logistic regression by L-BFGS, its L2 penalty the best on a part of the training split, then fitted on all."""

    kind: ClassVar[str] = "linear_probe"

    train: str = Field("train", description="split it learns from, which must be embedded, too")
    validation: float = Field(0.2, gt=0, lt=1, description="share of that split on which the penalty is chosen")
    seed: int = Field(0, description="seed of the choice of that part")

    def evaluate(self, data: Embedded) -> Scores:
        import numpy as np

        from infra import metrics

        learned = data.split(self.train)
        random = np.random.default_rng(self.seed)
        order = random.permutation(len(learned.labels))
        held, rest = np.split(order, [max(1, round(self.validation * len(order)))])
        strength = _best_strength(learned.images, learned.labels, rest, held)
        scores = _class_scores(learned.images, learned.labels, strength, data.images, len(data.classes))
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

        learned = data.split(self.train)
        random = np.random.default_rng(self.seed)
        right = np.zeros(len(data.labels))
        for _ in range(self.draws):
            # As many to learn from as asked for, and up to four of the others of each class to choose the penalty on.
            order = random.permutation(len(learned.labels))
            place = _place_in_class(learned.labels[order])
            few, held = order[place < self.shots], order[(place >= self.shots) & (place < self.shots + 4)]
            strength = _best_strength(learned.images, learned.labels, few, held) if len(held) else 1.0
            scores = _class_scores(learned.images[few], learned.labels[few], strength, data.images, len(data.classes))
            right += scores.argmax(axis=1) == data.labels
        return Scores.means({f"few_shot_acc1@{self.shots}": right / self.draws})


def _best_strength(vectors: Floats, labels: Ints, rest: Ints, held: Ints) -> float:
    """The C that gets most of ``held`` right after learning from ``rest``: CLIP's search, halving around the best."""
    known: dict[float, float] = {}

    def accuracy(strength: float) -> float:
        if strength not in known:
            scores = _class_scores(vectors[rest], labels[rest], strength, vectors[held], int(labels.max()) + 1)
            known[strength] = float((scores.argmax(axis=1) == labels[held]).mean())
        return known[strength]

    best = max(_STRENGTHS, key=accuracy)
    step = 2.0  # decades between neighbours
    while step > 1 / _STEPS_PER_DECADE:
        step /= 2
        best = max((best, best * 10**-step, best * 10**step), key=accuracy)
    return best


def _class_scores(vectors: Floats, labels: Ints, strength: float, asked: Floats, classes: int) -> Floats:
    """Learn from ``vectors`` and score ``asked``: (m, classes), minus infinity for classes without an example."""
    import warnings

    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    scores = np.full((len(asked), classes), -np.inf, np.float32)
    present = np.unique(labels)
    if len(present) == 1:
        scores[:, present] = 0
        return scores
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at the ends of the search; the best is what counts
        model = LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(vectors, labels)
    found = model.decision_function(asked)
    scores[:, model.classes_] = found if found.ndim == 2 else np.stack([-found, found], axis=1) / 2
    return scores


def _place_in_class(labels: Ints) -> Ints:
    """How many of its class are before each: (n,)."""
    import numpy as np

    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.empty_like(order)
    place[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return place


def _predictions(data: Embedded, predicted: Ints) -> Columns:
    return {
        "key": data.keys,
        "class": [data.classes[label] for label in data.labels],
        "predicted_class": [data.classes[label] for label in predicted],
    }

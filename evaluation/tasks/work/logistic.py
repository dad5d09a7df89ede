"""Logistic regression on vectors, and the search for its penalty, as CLIP's linear probes have them."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

__all__ = ["best_strength", "class_scores", "place_in_class"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_STRENGTHS = tuple(10.0**power for power in range(-6, 7, 2))  # where CLIP's search begins; C = 1 / L2
_STEPS_PER_DECADE = 8  # where it ends
_ITERATIONS = 1000


def best_strength(vectors: Floats, labels: Ints, rest: Ints, held: Ints) -> float:
    """The C that gets most of ``held`` right after learning from ``rest``: CLIP's search, halving around the best."""
    known: dict[float, float] = {}

    def accuracy(strength: float) -> float:
        if strength not in known:
            scores = class_scores(vectors[rest], labels[rest], strength, vectors[held], int(labels.max()) + 1)
            known[strength] = float((scores.argmax(axis=1) == labels[held]).mean())
        return known[strength]

    best = max(_STRENGTHS, key=accuracy)
    step = 2.0  # decades between neighbours
    while step > 1 / _STEPS_PER_DECADE:
        step /= 2
        best = max((best, best * 10**-step, best * 10**step), key=accuracy)
    return best


def class_scores(vectors: Floats, labels: Ints, strength: float, asked: Floats, classes: int) -> Floats:
    """Learn from ``vectors`` and score ``asked``: (m, classes), minus infinity for classes without an example."""
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


def place_in_class(labels: Ints) -> Ints:
    """Return the number of those of its own class that are before each: (n,)."""
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.empty_like(order)
    place[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return place

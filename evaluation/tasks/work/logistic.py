"""Logistic regression on vectors, and the search for its penalty, as CLIP's linear probes have them.

The loss is that of scikit-learn's ``LogisticRegression``: the mean cross entropy, and the squared weights times
1 / (2 C n). The minimiser is scipy's L-BFGS, as there, but along the principal axes of the vectors, each in the unit in
which the loss is about equally curved: vectors of images lie in a narrow cone, where it takes many times the steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

__all__ = ["OneVsRest", "Probe", "best_strength", "class_scores", "place_in_class", "search"]

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_STRENGTHS = tuple(10.0**power for power in range(-6, 7, 2))  # where CLIP's search begins; C = 1 / L2
_STEPS_PER_DECADE = 8  # where it ends
_ITERATIONS = 1000
_GRADIENT = 3e-4  # of that of no weights at all, at which the loss counts as least
_CELLS = 1 << 20  # of a block of scores: 4 MiB


class _Logistic(ABC):
    """Vectors to learn from, (n, d), ready to be fitted with several penalties."""

    def __init__(self, vectors: Floats) -> None:
        self._mean = vectors.mean(axis=0, dtype=np.float64)
        centred = vectors - self._mean.astype(np.float32)
        spread, axes = np.linalg.eigh((centred.T @ centred / len(vectors)).astype(np.float64))
        # What no vector differs in gets no weight, penalised as it is.
        seen = spread > spread[-1] * np.finfo(np.float32).eps
        self._spread, self._axes = spread[seen], axes[:, seen]
        along = centred @ self._axes.astype(np.float32)
        self._inputs = np.concatenate([along, np.ones((len(along), 1), np.float32)], axis=1)

    def _least(self, penalty: float, curvature: Array) -> tuple[Array, Array]:
        """Weights (d, k) and intercepts (k,) of the least loss; ``curvature`` (k,): about p (1 - p) of each column."""
        number = len(curvature)
        along = 1 / np.sqrt(self._spread[:, None] * curvature + penalty)
        unit = np.concatenate([along, 1 / np.sqrt(curvature)[None]])
        paid = penalty * unit**2
        paid[-1] = 0  # the intercept's

        def loss(flat: Array) -> tuple[float, Array]:
            weights = flat.reshape(-1, number)
            value, slope = self._cross_entropy(unit * weights)
            gradient = unit * slope + paid * weights
            return value + float((paid * weights**2).sum()) / 2, gradient.ravel()

        start = np.zeros(unit.size)
        options = {"maxiter": _ITERATIONS, "gtol": _GRADIENT * np.abs(loss(start)[1]).max(), "ftol": 1e-12}
        found = unit * minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x.reshape(-1, number)
        weights = self._axes @ found[:-1]
        return weights, found[-1] - self._mean @ weights

    def _cross_entropy(self, weights: Array) -> tuple[float, Array]:
        """Mean cross entropy of the inputs and its gradient, (d + 1, k), by blocks of rows."""
        single, total, slope = weights.astype(np.float32), 0.0, np.zeros(weights.shape)
        step = max(1, _CELLS // weights.shape[1])
        for start in range(0, len(self._inputs), step):
            inputs = self._inputs[start : start + step]
            odds = inputs @ single
            total += self._entropy(odds, start)
            slope += inputs.T @ odds
        return total / len(self._inputs), slope / len(self._inputs)

    @abstractmethod
    def _entropy(self, odds: Floats, start: int) -> float:
        """Cross entropy of the rows from ``start`` on with these ``odds`` (b, k), which become its gradient."""


class Probe(_Logistic):
    """Vectors to learn from, (n, d), each of one of two classes or more."""

    def __init__(self, vectors: Floats, labels: Ints) -> None:
        super().__init__(vectors)
        self._present, self._labels = np.unique(labels, return_inverse=True)

    def scores(self, strength: float, asked: Floats, classes: int) -> Floats:
        """Score ``asked`` (m, d) after learning: (m, classes), minus infinity for classes without an example."""
        weights, intercept = self.fit(strength)
        scores = np.full((len(asked), classes), -np.inf, np.float32)
        scores[:, self._present] = asked @ weights + intercept
        return scores

    def fit(self, strength: float) -> tuple[Array, Array]:
        """Weights (d, classes) and intercepts (classes,) of the classes there are, with C = ``strength``."""
        number = len(self._present)
        # Of two classes scikit-learn learns one vector, which is the difference of these two, and penalises it alone.
        penalty = 1 / (len(self._labels) * (strength / 2 if number == 2 else strength))
        return self._least(penalty, np.full(number, 1 / number))

    def _entropy(self, odds: Floats, start: int) -> float:
        labels, own = self._labels[start : start + len(odds)], np.arange(len(odds))
        odds -= odds.max(axis=1, keepdims=True)
        total = -odds[own, labels].sum(dtype=np.float64)
        sums = np.exp(odds, out=odds).sum(axis=1, keepdims=True)
        total += np.log(sums).sum(dtype=np.float64)
        odds /= sums
        odds[own, labels] -= 1
        return float(total)


class OneVsRest(_Logistic):
    """Vectors to learn from, (n, d), and which of any number of classes each ``shows``, (n, classes).

    The sum over classes of the loss of scikit-learn's ``OneVsRestClassifier(LogisticRegression(C))``. A class that all
    or none of them show has nothing to learn: all score the same.
    """

    def __init__(self, vectors: Floats, shows: NDArray[np.bool_]) -> None:
        super().__init__(vectors)
        share = shows.mean(axis=0)
        self._learnt, self._always = (share > 0) & (share < 1), share == 1
        self._shows, self._share = shows[:, self._learnt], share[self._learnt]

    def scores(self, strength: float, asked: Floats) -> Floats:
        """Score ``asked`` (m, d) after learning: (m, classes), log-odds of each."""
        weights, intercept = self.fit(strength)
        most = np.finfo(np.float32).max
        scores = np.where(self._always, most, -most) * np.ones((len(asked), 1), np.float32)
        scores[:, self._learnt] = asked @ weights + intercept
        return np.asarray(scores, np.float32)

    def fit(self, strength: float) -> tuple[Array, Array]:
        """Weights (d, classes) and intercepts (classes,) of the classes that can be learnt, with C = ``strength``."""
        return self._least(1 / (len(self._shows) * strength), self._share * (1 - self._share))

    def _entropy(self, odds: Floats, start: int) -> float:
        shows = self._shows[start : start + len(odds)]
        total = np.logaddexp(0, odds).sum(dtype=np.float64) - odds[shows].sum(dtype=np.float64)
        expit(odds, out=odds)
        odds -= shows
        return float(total)


def best_strength(vectors: Floats, labels: Ints, rest: Ints, held: Ints) -> float:
    """The C that gets most of ``held`` right after learning from ``rest``."""
    if len(np.unique(labels[rest])) == 1:
        return 1.0  # there is nothing to learn
    probe = Probe(vectors[rest], labels[rest])

    def accuracy(strength: float) -> float:
        scores = probe.scores(strength, vectors[held], int(labels.max()) + 1)
        return float((scores.argmax(axis=1) == labels[held]).mean())

    return search(accuracy)


def search(quality: Callable[[float], float]) -> float:
    """The C of the highest ``quality``: CLIP's search, halving around the best."""
    known = cache(quality)
    best = max(_STRENGTHS, key=known)
    step = 2.0  # decades between neighbours
    while step > 1 / _STEPS_PER_DECADE:
        step /= 2
        best = max((best, best * 10**-step, best * 10**step), key=known)
    return best


def class_scores(vectors: Floats, labels: Ints, strength: float, asked: Floats, classes: int) -> Floats:
    """Learn from ``vectors`` and score ``asked``: (m, classes), minus infinity for classes without an example."""
    if len(present := np.unique(labels)) > 1:
        return Probe(vectors, labels).scores(strength, asked, classes)
    scores = np.full((len(asked), classes), -np.inf, np.float32)
    scores[:, present] = 0
    return scores


def place_in_class(labels: Ints) -> Ints:
    """Return the number of those of its own class that are before each: (n,)."""
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.empty_like(order)
    place[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return place

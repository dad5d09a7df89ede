"""F1 of each class, the harmonic mean of precision and recall, and the mean over classes, as WILDS takes it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from infra.measures import Array, Counts, Metric

__all__ = ["MacroF1"]


@dataclass(frozen=True)
class MacroF1(Metric):
    """The mean over classes that have images, as scikit-learn's with ``average="macro", labels=np.unique(labels)``."""

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @property
    def images(self) -> int:  # type: ignore[override]
        return len(self.labels)

    @property
    def is_share(self) -> bool:
        return True

    @cached_property
    def _by_class(self) -> tuple[Any, Any, Any]:
        """Masks of the images of each class, of those taken for it, and of those taken rightly: (classes, n) each."""
        classes = int(max(self.labels.max(), self.predicted.max())) + 1
        right = (self.labels == self.predicted).astype(np.float64)
        ones, places = np.ones(self.images), np.arange(self.images)

        def matrix(rows: Array, values: Array) -> Any:  # noqa: ANN401 - a sparse array
            return csr_array((values, (rows, places)), shape=(classes, self.images))

        return matrix(self.labels, ones), matrix(self.predicted, ones), matrix(self.labels, right)

    def resampled(self, counts: Counts) -> NDArray[np.float64]:
        images, taken, right = (part @ counts.T for part in self._by_class)
        f1 = np.divide(2 * right, images + taken, out=np.zeros_like(right), where=images + taken > 0)
        found: NDArray[np.float64] = f1.sum(axis=0, where=images > 0) / (images > 0).sum(axis=0)
        return found

"""Vectors to measure, and what metrics found of them."""

from __future__ import annotations

import numpy as np

from infra.measures import Metric


def unit(random: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = random.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def values(found: dict[str, Metric]) -> dict[str, float]:
    return {name: metric.value for name, metric in found.items()}


def resampled(found: dict[str, Metric], index: np.ndarray) -> np.ndarray:
    """The metrics on images chosen by ``index``, (b, n): (b, m)."""
    counts = np.stack([np.bincount(row, minlength=index.shape[1]) for row in index]).astype(float)
    return np.stack([metric.resampled(counts) for metric in found.values()], axis=1)

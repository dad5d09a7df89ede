"""The table of a classification: a row for each image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluation.tasks.task import Columns
from infra.metrics import Classified

__all__ = ["predictions"]


def predictions(keys: Sequence[str], classified: Classified, classes: Sequence[str]) -> Columns:
    """Table of the predicted class of each image, with its confidence, which ``classified`` must have."""
    return {
        "key": keys,
        "label": classified.labels,
        "predicted": classified.predicted,
        "rank": classified.rank,  # of the true class, 0 = first
        "class": [classes[label] for label in classified.labels],
        "predicted_class": [classes[label] for label in classified.predicted],
        "confidence": np.asarray(classified.confidence),
    }

"""Measure a fusion model: which captions match an image, which words are masked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.embedded import Embedded
from evaluation.tasks.task import Scores
from infra import ranking
from infra.errors import DataError
from infra.measures import Mean, Metric

if TYPE_CHECKING:
    from evaluation.tasks.matching import Matching
    from infra.encoder import Matcher

__all__ = ["measure"]


def measure(task: Matching, data: Embedded) -> Scores:
    """Both metrics, of a retrieval set. Raises DataError for another one."""
    if not data.examples.retrieval:
        raise DataError(f"test set {data.examples.name!r} has no captions", expected="retrieval in dataset_type.txt")
    model = data.matcher()
    metrics: dict[str, Metric] = {"itm_acc": Mean(_matched(model, data))}
    if task.words:
        captions = data.captions_of_images()
        for name, given in (("mlm_acc1", captions), ("mlm_acc1_other_image", captions[1:] + captions[:1])):
            right, masked = model.guess_words(data.seen_by(model), given, task.mask_rate)
            # By the image whose captions they are, so that all metrics are of the same images.
            owner = np.repeat(np.arange(len(given)), [len(own) for own in given])
            if name != "mlm_acc1":
                owner = (owner + 1) % len(given)
            hits, words = (np.bincount(owner, weights=count, minlength=len(given)) for count in (right, masked))
            metrics[name] = Mean(hits, words)
    return Scores(metrics=metrics, facts={"images": len(data.keys), "captions": len(data.text_of)})


def _matched(model: Matcher, data: Embedded) -> NDArray[np.float64]:
    """Score each image, 0 to 1: half for its captions that match, half if the likeliest wrong one does not."""
    texts = len(data.texts)
    own = np.unique(data.image_of * texts + data.text_of)
    most = int(np.bincount(own // texts).max()) + 1
    if model.regions is None:
        _, near = ranking.nearest(data.images, data.texts, most)
    else:  # its image encoder has learnt nothing
        near = _far_away(data, most)
    cells = np.arange(len(data.keys))[:, None] * texts + near
    foreign = ~np.isin(cells, own)
    if not foreign.any(axis=1).all():
        raise DataError(f"all images of test set {data.examples.name!r} have the same captions")
    wrong = np.take_along_axis(cells, foreign.argmax(axis=1)[:, None], axis=1)[:, 0]
    logits = data.match(*np.divmod(np.concatenate([own, wrong]), texts))
    owner = own // texts
    matching = np.bincount(owner, weights=logits[: len(own)] > 0) / np.bincount(owner)
    result: NDArray[np.float64] = (matching + (logits[len(own) :] <= 0)) / 2
    return result


def _far_away(data: Embedded, count: int) -> NDArray[np.int64]:
    """For each image ``count`` captions from half the set away, since neighbours may be of one group: (n, count)."""
    images = np.roll(np.arange(len(data.keys)), len(data.keys) // 2)
    first = data.text_of[np.searchsorted(data.image_of, images)]
    return (first[:, None] + np.arange(count)) % len(data.texts)

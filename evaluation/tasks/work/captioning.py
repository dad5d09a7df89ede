"""Measure the captions that a model writes by those that people wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU

from evaluation.cider import Consensus
from evaluation.embedded import Embedded
from evaluation.tasks.task import Scores
from infra.measures import Counts, Metric, Statistic

if TYPE_CHECKING:
    from evaluation.tasks.captioning import Captioning

__all__ = ["bleu", "measure", "words"]

_WORD = re.compile(r"[\w'’]+")


def measure(task: Captioning, data: Embedded) -> Scores:
    """All metrics of a set with captions."""
    written, references = data.write_captions(task.decoding), data.captions_of_images()
    ours, theirs = [words(text) for text in written], [[words(text) for text in own] for own in references]
    half = len(theirs) // 2
    consensus = Consensus(theirs)
    own = consensus.scores(ours, range(len(ours)))
    other = consensus.scores(ours, [*range(half, len(theirs)), *range(half)])  # neighbours may show the same
    metrics: dict[str, Metric] = {
        "CIDEr": _mean(own, 10.0),
        "Bleu_4": bleu(ours, theirs),
        "CIDEr_other_image": _mean(other, 10.0),
        "words": _mean(np.array([len(text) for text in ours], np.float64), None),
    }
    table: dict[str, Sequence[object] | NDArray[np.float64]] = {
        "key": data.keys,
        "caption": written,
        "references": references,
        "CIDEr": own,
    }
    return Scores(metrics=metrics, tables={"captions": table}, facts={"different_captions": len({*written})})


def words(text: str) -> list[str]:
    """The words of a text in lower case, without marks. COCO's evaluation splits some otherwise ("don't": do, n't)."""
    return _WORD.findall(text.lower())


def bleu(written: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> Metric:
    """BLEU-4 of a set of texts of words, with any number of references each (Papineni et al., 2002), as sacrebleu does.

    It is of the whole set, not a mean: what it counts in each image is added up over a set, or a resample of it.
    """
    count = BLEU(tokenize="none", force=True, effective_order=True)
    rows = []
    for text, own in zip(written, references, strict=True):
        found = count.sentence_score(" ".join(text), [" ".join(one) for one in own])
        rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
    table = np.array(rows, np.float64)

    def of(counts: Counts) -> NDArray[np.float64]:
        return np.array([_bleu(row) for row in np.rint(counts @ table).astype(int).tolist()])

    return Statistic(len(table), of)


def _bleu(row: list[int]) -> float:
    right, all_of_it, (own, reference) = row[:4], row[4:8], row[8:]
    if not all(right):
        return 0.0
    return BLEU.compute_bleu(right, all_of_it, own, reference, smooth_method="none").score / 100


def _mean(values: NDArray[np.float64], most: float | None) -> Metric:
    """A mean over images of what is no share, even if all of it lies between 0 and 1."""
    return Statistic(len(values), lambda counts: counts @ values / counts.sum(axis=1), range=(0.0, most))

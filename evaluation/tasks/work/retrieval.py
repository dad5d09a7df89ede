"""Measure retrieval: the ranks of all queries, re-ranked if asked for, and those within each language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from evaluation import galleries
from evaluation.embedded import Embedded
from evaluation.reranking import reranked
from evaluation.tasks.task import Columns, Scores
from infra import ranking
from infra.errors import DataError
from infra.formats.testset import read_languages
from infra.measures import Metric
from infra.ranking import Retrieved

if TYPE_CHECKING:
    from evaluation.tasks.retrieval import Retrieval

__all__ = ["measure"]

_BEYOND = "beyond"


def measure(task: Retrieval, data: Embedded) -> Scores:
    """Ranks of all queries, and of each language. Raises DataError for a set without captions."""
    if not data.examples.retrieval:
        raise DataError(
            f"test set {data.examples.name!r} has no captions",
            expected="retrieval in dataset_type.txt",
            fix="evaluate it with evaluation.tasks.ZeroShot",
        )
    every = max(len(data.keys), len(data.captions))
    if task.rerank is not None and task.rerank < every and not data.pictured:
        raise DataError(
            f"images of test set {data.examples.name!r} have no pixels, so matching alone ranks them",
            expected=f"rerank={every} or more, which is every pair",
            found=f"rerank={task.rerank}",
        )
    vectors = data.images if task.rerank is None else data.image_vectors
    retrieved = ranking.retrieve(vectors, data.texts, data.text_of, data.image_of)
    metrics = retrieved.metrics(task.recall_at) | retrieved.median_ranks()
    if task.rerank is not None:
        # The ranks of the encoders alone stay beside those of both.
        retrieved, first = reranked(data, retrieved, task.rerank), metrics
        metrics = retrieved.metrics(task.recall_at) | retrieved.median_ranks()
        metrics |= {f"encoders_{name}": metric for name, metric in first.items() if data.pictured}
    parts = {"languages": _languages(data), "context": _context(data)}
    groups: dict[str, dict[str, dict[str, Metric]]] = {}
    if data.pictured:
        for table, of_captions in parts.items():
            groups |= _by(table, of_captions, data, task)
    return Scores(
        metrics=metrics,
        groups=groups,
        tables={"image_queries": _image_queries(data, retrieved), "text_queries": _text_queries(data, retrieved)},
        figures=galleries.retrieval(data) if data.pictured else {},
        facts={
            "images": len(data.keys),
            "captions": len(data.text_of),
            "distinct_captions": len(data.captions),
            "beyond_context": {data.long_captions: parts["context"].count(_BEYOND)},
        },
    )


def _by(table: str, parts: Sequence[str], data: Embedded, task: Retrieval) -> dict[str, dict[str, dict[str, Metric]]]:
    """The ``table`` of metrics of captions of each part alone, in alphabetical order, if there are several parts."""
    found, of_part = {}, np.asarray(parts)
    for part in sorted(set(parts)):
        one = ranking.retrieve_among(data.images, data.texts, data.text_of, data.image_of, of_part == part)
        found[part] = one.metrics(task.recall_at) | one.median_ranks()
    return {table: found} if len(found) > 1 else {}


def _context(data: Embedded) -> list[str]:
    """For each caption, whether it fits into the model's context."""
    beyond = np.zeros(len(data.text_of), np.bool_) if data.beyond_context is None else data.beyond_context
    return [_BEYOND if one else "fits" for one in beyond.tolist()]


def _languages(data: Embedded) -> list[str]:
    """The language of each caption, "" where the set says none. Raises DataError if a sample names too many or few."""
    counts = np.bincount(data.image_of, minlength=len(data.keys)).tolist()
    samples = zip(data.keys, data.metadata, counts, strict=True)
    name = data.examples.name
    return [one for key, text, count in samples for one in read_languages(text, count, f"sample {key!r} of {name}")]


def _image_queries(data: Embedded, retrieved: Retrieved) -> Columns:
    """For each image: wrong captions above its best own one, wrong and own ones level with it."""
    return {
        "key": data.keys,
        "better": retrieved.image_better,
        "equal": retrieved.image_equal,
        "right": retrieved.image_right,
    }


def _text_queries(data: Embedded, retrieved: Retrieved) -> Columns:
    """For each caption: wrong images above its own, and level with it."""
    return {
        "key": [data.keys[image] for image in data.image_of],
        "caption": [data.captions[text] for text in data.text_of],
        "better": retrieved.text_better,
        "equal": retrieved.text_equal,
        "context": _context(data),
    }

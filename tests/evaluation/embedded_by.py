"""Test sets as models see them that are functions of the image's number and of the caption's text."""

from __future__ import annotations

import numpy as np

from evaluation.embedded import Embedded
from infra.formats.testset import EvalSet


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embedded(examples: EvalSet, images, texts, **rest) -> Embedded:
    """What a model sees that gives sample i the vector ``images(i)`` and a caption the vector ``texts(caption)``."""
    given = list(examples.packed(0))
    captions = [caption for sample in given for caption in sample.captions]
    distinct = list(dict.fromkeys(captions))
    return Embedded(
        examples=examples,
        keys=[sample.key for sample in given],
        labels=np.full(len(given), -1),
        image_vectors=unit([images(number, sample) for number, sample in enumerate(given)]),
        captions=distinct,
        texts=unit([texts(caption) for caption in distinct]),
        text_of=np.array([distinct.index(caption) for caption in captions]),
        image_of=np.repeat(np.arange(len(given)), [len(sample.captions) for sample in given]),
        metadata=[sample.metadata for sample in given],
        logit_scale=1.0,
        source=None,
        encoder=lambda: None,
        **rest,
    )

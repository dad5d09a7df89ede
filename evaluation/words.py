"""The words of a set of texts alone: their vectors, and what of its file could not be read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.embedded import Embedded, Floats
from infra import metrics
from infra.formats.testset import prompts

__all__ = ["Unread", "left_out", "word_vectors"]

log = logging.getLogger(__name__)

_WORDS = 256  # whose prompts are held as vectors at once


def word_vectors(data: Embedded, templates: Sequence[str] | None) -> Floats:
    """A unit vector for each distinct caption, (v, d): its own, or the normalised mean of its prompts'."""
    if not templates:
        return data.texts
    blocks = [data.captions[at : at + _WORDS] for at in range(0, len(data.captions), _WORDS)]
    vectors = [metrics.ensemble(data.encode_texts(prompts(block, templates)), len(block)) for block in blocks]
    return np.concatenate(vectors)


@dataclass(frozen=True)
class Unread:
    """Lines that are left out of a score, as it tells them: numbers by reason, and a table of them if there are any."""

    facts: Mapping[str, Any]
    tables: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)


def left_out(data: Embedded) -> Unread:
    """Return what of the set's file could not be read, and warn of it."""
    lines = data.examples.left_out()
    if not lines:
        return Unread({"left_out": {}})
    reasons = Counter(one.problem for one in lines)
    name = f"{data.examples.name}/{data.examples.split}"
    log.warning("%s: %d lines are left out; the first: %s", name, len(lines), lines[0].error.message)
    errors = [one.error for one in lines]
    table = {
        "reason": [one.problem for one in lines],
        "error": [error.message for error in errors],
        "found": [error.found for error in errors],
    }
    return Unread({"left_out": dict(reasons)}, {"left_out": table})

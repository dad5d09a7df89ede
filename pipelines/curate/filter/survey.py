"""Questions that a rule asks about the whole set before it can judge a row. Light: planning looks at rules.

How they are answered, in memory that does not grow with the set, is in :mod:`pipelines.curate.filter.answers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Frequent", "Quantile", "Question"]


@dataclass(frozen=True)
class Quantile:
    """Question for the score of the last row among the ``share`` of the largest, or else smallest, scores.

    The answer is by language, or under "" for all: of n rows with a score that of row ceil(share * n) in order.
    """

    column: str
    share: float
    largest: bool
    by_language: bool


@dataclass(frozen=True)
class Frequent:
    """Question for the captions of more than ``most`` rows; the answer: sorted 64-bit hashes of their folded texts."""

    most: int


Question: TypeAlias = Quantile | Frequent

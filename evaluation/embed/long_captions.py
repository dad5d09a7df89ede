"""Treatments of captions that are longer than a model's context, of which it would see the beginning only.

``cut`` is what the model does with them. The others average unit vectors of parts that fit, as is common for documents
longer than an encoder's context (OpenAI's cookbook, *Embedding texts that are longer than the model's maximum context
length*: chunks, averaged by their lengths, then normalised); sentences are what DreamLIP (Zheng et al., 2024) takes a
long caption apart into. A kind of your own is a subclass of :class:`LongCaptions`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from types import ModuleType
from typing import ClassVar

from infra.config import Choice

__all__ = ["AverageSentences", "AverageWindows", "Cut", "Fits", "LongCaptions"]

Fits = Callable[[str], bool]
"""Whether a text fits into the model's context."""


class LongCaptions(Choice):
    """Treatment of a caption that does not fit: texts, the weighted mean of whose vectors is its vector."""

    @abstractmethod
    def texts(self, caption: str, fits: Fits) -> list[tuple[str, float]]:
        """The parts of a caption with their weights; of the caption itself the model sees what its context holds."""


class Cut(LongCaptions):
    """The model sees the beginning only, as everywhere."""

    kind: ClassVar[str] = "cut"

    def texts(self, caption: str, fits: Fits) -> list[tuple[str, float]]:
        return [(caption, 1.0)]


class AverageWindows(LongCaptions):
    """The mean of windows: each has as many words as fit, and weighs as many characters as it has."""

    kind: ClassVar[str] = "average_windows"

    def texts(self, caption: str, fits: Fits) -> list[tuple[str, float]]:
        return [(window, float(len(window))) for window in _parts().windows(caption, fits)]


class AverageSentences(LongCaptions):
    """The mean of sentences (Unicode Standard Annex 29), all of one weight; one that does not fit is its windows."""

    kind: ClassVar[str] = "average_sentences"

    def texts(self, caption: str, fits: Fits) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        for sentence in _parts().sentences(caption):
            within = _parts().windows(sentence, fits)
            whole = sum(map(len, within))
            found += [(window, len(window) / whole) for window in within]
        return found


def _parts() -> ModuleType:
    from evaluation.embed import parts  # loads regex and ICU, which a recipe is planned without

    return parts

"""Treatments of captions that are longer than a model's context, of which it would see the beginning only.

``cut`` is what the model does with them. The others average unit vectors of parts that fit, as is common for documents
longer than an encoder's context (OpenAI's cookbook, *Embedding texts that are longer than the model's maximum context
length*: chunks, averaged by their lengths, then normalised); sentences are what DreamLIP (Zheng et al., 2024) takes a
long caption apart into. A kind of your own is a subclass of :class:`LongCaptions`.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import ClassVar

import regex
from icu4py.breakers import SentenceBreaker

from infra.config import Choice

__all__ = ["AverageSentences", "AverageWindows", "Cut", "Fits", "LongCaptions", "windows"]

Fits = Callable[[str], bool]
"""Whether a text fits into the model's context."""

_WORDS = regex.compile(r"\s*\S+")
_CHARACTERS = regex.compile(r"\X")  # with their marks


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
        return [(window, float(len(window))) for window in windows(caption, fits)]


class AverageSentences(LongCaptions):
    """The mean of sentences (Unicode Standard Annex 29), all of one weight; one that does not fit is its windows."""

    kind: ClassVar[str] = "average_sentences"

    def texts(self, caption: str, fits: Fits) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        for sentence in filter(None, (part.strip() for part in SentenceBreaker(caption, "root"))):
            within = windows(sentence, fits)
            whole = sum(map(len, within))
            found += [(window, len(window) / whole) for window in within]
        return found


def windows(text: str, fits: Fits) -> list[str]:
    """``text`` in parts, each of as many words as fit; a word that does not fit is taken apart between characters."""
    found: list[str] = []
    words: Sequence[str] = _WORDS.findall(text)
    while words:
        count = _most(words, fits)
        if count == 0 and len(characters := _CHARACTERS.findall(words[0].strip())) > 1:
            # A word, or a sentence in a script without spaces.
            count = max(1, _most(characters, fits))
            found.append("".join(characters[:count]))
            rest = "".join(characters[count:])
            words = [rest, *words[1:]] if rest else words[1:]
        else:
            count = max(1, count)
            found.append("".join(words[:count]).strip())
            words = words[count:]
    return found


def _most(parts: Sequence[str], fits: Fits) -> int:
    """The number of ``parts``, from the first on, that fit together; more parts are taken to be more tokens."""
    return bisect_left(range(1, len(parts) + 1), True, key=lambda count: not fits("".join(parts[:count]).strip()))

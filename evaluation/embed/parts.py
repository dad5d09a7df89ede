"""Parts of a text: sentences, and windows of as many words as fit into a model's context."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

import regex
from icu4py.breakers import SentenceBreaker

if TYPE_CHECKING:
    from evaluation.embed.long_captions import Fits

__all__ = ["sentences", "windows"]

_WORDS = regex.compile(r"\s*\S+")
_CHARACTERS = regex.compile(r"\X")  # with their marks


def sentences(text: str) -> list[str]:
    """The sentences of ``text`` (Unicode Standard Annex 29), without the spaces around them."""
    return [*filter(None, (part.strip() for part in SentenceBreaker(text, "root")))]


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

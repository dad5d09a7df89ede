"""Words in any script, to count and to match.

Most scripts put spaces between words, Tibetan a mark between syllables. Chinese, Japanese, Thai, Lao, Khmer and Burmese
put nothing there: their words are those that ICU finds with its dictionaries (Unicode Standard Annex 29).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import accumulate, groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import regex
from icu4py.breakers import WordBreaker

__all__ = ["boundaries", "count_words", "fold", "is_unspaced", "tokens", "tokens_of_all", "words"]

_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
# RE2: all from the block of Thai on, which all these scripts are in, but for punctuation.
_MAYBE_UNSPACED = r"[^\x{0000}-\x{0DFF}\x{2000}-\x{206F}]"
_TSHEG = "\u0f0b\u0f0c"  # what Tibetan puts between syllables
_SPACED_TSHEG = str.maketrans(dict.fromkeys(_TSHEG, " "))
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\uff07", "'"))
# The \w of regex, other than that of re, holds the marks and joiners that stand inside Indic and Persian words.
_TOKEN = regex.compile(r"\w+|[^\w\s]")
_ASCII_TOKEN = re.compile(r"\w+|[^\w\s]", re.ASCII)
_ASCII_TOKEN_OR_BREAK = re.compile(r"\w+|[^\w\s]|\n", re.ASCII)


def words(text: str) -> list[str]:
    """Return the words of ``text``: what is between spaces, and in scripts without spaces what ICU takes for words."""
    if text.isascii():
        return text.split()
    found: list[str] = []
    for run in text.translate(_SPACED_TSHEG).split():
        found += (part for part in _break(run) if any(map(str.isalnum, part))) if is_unspaced(run) else (run,)
    return found


def count_words(texts: pa.ChunkedArray) -> Any:  # noqa: ANN401 - a pyarrow array of integers
    """Return the number of words() of each text, null for null; most texts never leave Arrow."""
    text = pc.utf8_trim_whitespace(pa.chunked_array(texts).combine_chunks())
    counts = pc.if_else(pc.equal(text, ""), 0, pc.list_value_length(pc.utf8_split_whitespace(text)))
    unusual = pc.match_substring_regex(text, _MAYBE_UNSPACED)
    corrected = [len(words(given)) for given in text.filter(unusual).to_pylist()]
    return pc.replace_with_mask(counts, unusual, pa.array(corrected, counts.type))


def fold(text: str) -> str:
    """Return ``text`` in NFC with plain apostrophes: equal for words that are equal however they were typed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text).translate(_APOSTROPHES)


def tokens(text: str) -> list[str]:
    """Return the words of ``text`` and each mark and symbol between them; apostrophes and hyphens are marks, too."""
    if text.isascii():
        return _ASCII_TOKEN.findall(text)
    found: list[str] = _TOKEN.findall(text)
    return [part for token in found for part in (_break(token) if is_unspaced(token) else (token,))]


def tokens_of_all(texts: Iterable[str]) -> list[str]:
    """Return the tokens of all ``texts`` with a line break between those of two; of ASCII texts in one search."""
    found: list[str] = []
    for number, (plain, run) in enumerate(groupby(texts, str.isascii)):
        if number:
            found.append("\n")
        if plain:
            found += _ASCII_TOKEN_OR_BREAK.findall("\n".join([text.replace("\n", " ") for text in run]))
        else:
            first, *others = run
            found += tokens(first)
            for text in others:
                found += ("\n", *tokens(text))
    return found


def boundaries(text: str) -> set[int]:
    """Return the places in ``text``, in characters, where ICU lets a word begin or end."""
    return {0, *accumulate(map(len, _break(text)))}


def is_unspaced(text: str) -> bool:
    """Return True if ``text`` has characters of a script without spaces between words."""
    return not text.isascii() and _UNSPACED.search(text) is not None


def _break(text: str) -> list[str]:
    return list(WordBreaker(text, "root"))

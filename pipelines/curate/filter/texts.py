"""Functions on columns of captions, for rules: a pyarrow column in, an array out, null for null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.hashing import hash64
from pipelines.curate.filter.detect import language_scores
from pipelines.curate.filter.junk import JUNK
from pipelines.curate.filter.languages import SAME
from pipelines.curate.words import count_words, words

__all__ = [
    "count_words",
    "folded_hashes",
    "is_rare",
    "language",
    "length",
    "relative_scores",
    "repetition",
    "says_something",
    "share",
]

_DENSE = r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Hangul}]"  # characters that say twice as much
_NOT = {  # RE2: all that is not of a class
    "letters": r"[^\pL\pM]",
    "digits": r"\PN",
    "symbols": r"[\pL\pM\pN\s]",
    "capitals": r"\P{Lu}",
}


def length(texts: pa.ChunkedArray) -> Any:  # noqa: ANN401 - a pyarrow array of integers
    """Characters; Chinese, Japanese and Korean ones count twice."""
    text = pc.utf8_trim_whitespace(texts)
    return pc.add(pc.utf8_length(text), pc.count_substring_regex(text, _DENSE))


def share(texts: pa.ChunkedArray, of: str) -> NDArray[np.float64]:
    """Share of a class of characters, or of a script, among those that are no spaces; 0 where there are none."""
    count = pc.utf8_length(pc.replace_substring_regex(texts, _NOT.get(of, rf"\P{{{of}}}"), ""))
    solid = pc.utf8_length(pc.replace_substring_regex(texts, r"\s", ""))
    shares = pc.divide(pc.cast(count, pa.float64()), pc.cast(pc.max_element_wise(solid, 1), pa.float64()))
    return np.asarray(pc.if_else(texts.is_valid(), shares, None).to_numpy(), np.float64)


def says_something(texts: pa.ChunkedArray, min_letters: float, max_repetition: float) -> pa.Array:
    """False for file names, markup, page furniture, noise, and one word repeated."""
    text = pc.utf8_trim_whitespace(texts)
    bad = pc.match_substring_regex(text, "|".join(f"(?:{pattern})" for pattern in JUNK))
    letters = pc.utf8_length(pc.replace_substring_regex(text, _NOT["letters"], ""))
    solid = pc.utf8_length(pc.replace_substring_regex(text, r"\s", ""))
    noise = pc.less(letters, pc.multiply(solid, min_letters))
    repetitive = pc.greater(pa.array(repetition(text), from_pandas=True), max_repetition)
    return pc.invert(pc.or_(pc.or_(bad, noise), repetitive))


def repetition(texts: pa.ChunkedArray, least: int = 6) -> NDArray[np.float64]:
    """Share of the most frequent word among the words of a text; 0 for texts of fewer than ``least``."""
    return np.array([np.nan if text is None else _repetition(text, least) for text in texts.to_pylist()], np.float64)


def _repetition(text: str, least: int) -> float:
    found = words(text.lower())
    return max(map(found.count, set(found))) / len(found) if len(found) >= least else 0.0


# --- languages --------------------------------------------------------------------------------------------------------


def relative_scores(texts: pa.ChunkedArray, least: Mapping[str, float]) -> NDArray[np.float64]:
    """The best of the wanted languages' scores, each over what it needs: 1 or more where the caption may stay.

    ``least``: by language, the share of the likeliest language's score that it needs.
    """
    wanted = [(SAME.get(code, code), share) for code, share in least.items()]

    def best(text: str) -> float:
        scores = language_scores(text)
        found = max(scores.get(code, 0.0) / share for code, share in wanted)
        return found / max(scores.values()) if found else 0.0

    return np.array([0.0 if text is None else best(text) for text in texts.to_pylist()], np.float64)


def language(texts: pa.ChunkedArray) -> pa.Array:
    """The likeliest language of each caption, as ISO 639-1; null where nothing speaks for any."""

    def likeliest(text: str | None) -> str | None:
        scores = language_scores(text) if text else {}
        return max(scores, key=scores.__getitem__) if scores else None

    return pa.array([likeliest(text) for text in texts.to_pylist()], pa.string())


# --- frequency --------------------------------------------------------------------------------------------------------


def folded_hashes(texts: pa.ChunkedArray) -> NDArray[np.uint64]:
    """A 64-bit hash of each caption, the same whatever its case and spaces."""
    found = (hash64(" ".join((text or "").casefold().split())) for text in texts.to_pylist())
    return np.fromiter(found, np.uint64, len(texts))


def is_rare(texts: pa.ChunkedArray, frequent: NDArray[np.uint64] | None) -> NDArray[np.bool_]:
    """False for captions whose hash is among the ``frequent`` ones, which are sorted, and for none."""
    assert frequent is not None, "a rule with a question is settled before it judges"
    hashes = folded_hashes(texts)
    if not len(frequent):
        found = np.zeros(len(hashes), np.bool_)
    else:
        found = frequent[np.minimum(np.searchsorted(frequent, hashes), len(frequent) - 1)] == hashes
    return np.asarray(~found & np.asarray(texts.is_valid()))

"""Texts as sets of shingles: some neighbouring words each, as 64-bit hashes.

Words are those of :mod:`pipelines.curate.words`, so Chinese, Japanese, Thai and others without spaces have theirs by
ICU's dictionaries. Case does not count, nor punctuation; digits and symbols do: "C++" is not "C", nor 12 mm 13 mm.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.arrays import begins_run
from infra.hashing import hash64
from pipelines.curate.words import fold, tokens_of_all

__all__ = ["jaccard", "mixed", "shingles"]

Array = NDArray[Any]

_AT_ONCE = 10_000  # texts
_ADD, _FIRST, _SECOND = (np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def shingles(texts: Sequence[str | None], words: int) -> tuple[Array, Array]:
    """The distinct shingles of each text, in order: their hashes, uint64, and the bounds of each text's, (n + 1,).

    A text of fewer ``words`` is one shingle; one without words, or none, has none.
    """
    found = list(_of_batches(texts, words))
    hashes = np.concatenate([np.empty(0, np.uint64), *(own for own, _ in found)])
    counts = np.concatenate([np.zeros(1, np.int64), *(own for _, own in found)])
    return hashes, np.cumsum(counts)


def _of_batches(texts: Sequence[str | None], words: int) -> Iterator[tuple[Array, Array]]:
    """Shingles, and how many each text has."""
    known: dict[str, int] = {}
    for start in range(0, len(texts), _AT_ONCE):
        batch = texts[start : start + _AT_ONCE]
        found = tokens_of_all(fold(text or "").casefold() for text in batch)
        # Each word by its number in the batch; what ends a text, and marks, have none.
        numbers: dict[str, int] = {"\n": 0}
        places = np.fromiter((numbers.setdefault(token, len(numbers)) for token in found), np.int64, len(found))
        hashes = np.array([_hash(token, known) for token in numbers], np.uint64)
        text = np.cumsum(places == 0)
        is_word = (hashes != 0)[places]
        yield _combined(hashes[places[is_word]], text[is_word], len(batch), words)
        if len(known) > 1_000_000:
            known.clear()


def _hash(token: str, known: dict[str, int]) -> int:
    """64 bits of a word; 0 of punctuation and of the end of a text."""
    if token not in known:
        counts = any(map(str.isalnum, token)) or unicodedata.category(token[0])[0] in "SM"
        known[token] = hash64(token) or 1 if counts else 0
    return known[token]


def _combined(hashes: Array, text: Array, count: int, words: int) -> tuple[Array, Array]:
    """The shingles of ``count`` texts, from the hashes of their words and the text that each is in."""
    sizes = np.bincount(text, minlength=count)
    starts = np.cumsum(sizes) - sizes
    found, of = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for length in range(1, words + 1):
        if length < words:
            begins = starts[sizes == length]  # short texts, whole
        else:
            last = np.arange(length - 1, len(text))
            begins = (last - length + 1)[text[last] == text[last - length + 1]]
        own = np.full(len(begins), length, np.uint64)
        for place in range(length):
            own = mixed(own + hashes[begins + place])
        found.append(own)
        of.append(text[begins])
    hashes, text = np.concatenate(found), np.concatenate(of)
    order = np.lexsort((hashes, text))
    hashes, text = hashes[order], text[order]
    distinct = begins_run(hashes, text)
    return hashes[distinct], np.bincount(text[distinct], minlength=count)


def mixed(values: Array) -> Array:
    """64 bits for each that look random (SplitMix64): (n,) uint64."""
    values = values + _ADD
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    found: Array = values ^ (values >> np.uint64(31))
    return found


def jaccard(ours: tuple[Array, Array], theirs: tuple[Array, Array]) -> Array:
    """The Jaccard similarity of each two sets of hashes, flat with their bounds, side by side: (n,) float64."""
    sizes = [np.diff(bounds) for _, bounds in (ours, theirs)]
    pair = np.concatenate([np.repeat(np.arange(len(each)), each) for each in sizes])
    hashes = np.concatenate([ours[0], theirs[0]])
    order = np.lexsort((hashes, pair))
    both = pair[order][~begins_run(hashes[order], pair[order])]  # a hash of both follows itself
    common = np.bincount(both, minlength=len(sizes[0]))
    similarity: Array = common / np.maximum(sizes[0] + sizes[1] - common, 1)
    return similarity

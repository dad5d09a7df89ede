"""Count the words of texts, and the pairs of neighbouring words that belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curate.words import fold, is_unspaced, tokens

__all__ = ["COUNTS", "KEYS", "WordCounter", "chosen", "summed"]

COUNTS = pa.schema(
    [
        *(("language", pa.string()), ("first", pa.string()), ("second", pa.string())),  # second: "" for a word alone
        *(("times", pa.int64()), ("texts", pa.int64())),  # how often it occurs, and how many texts hold it
    ]
)
KEYS = COUNTS.names[:3]

_AT_ONCE = 500_000  # words and pairs as Python objects: some 200 MB

Counted = tuple[str, str, str]


class WordCounter:
    """Counts the words and the pairs of neighbouring words of texts; see :data:`COUNTS`."""

    def __init__(self) -> None:
        self._times: Counter[Counted] = Counter()
        self._again: Counter[Counted] = Counter()  # occurrences in a text that has it already
        self._tables = [COUNTS.empty_table()]

    def add(self, language: str, captions: Iterable[str | None]) -> None:
        """Count one text, or all captions of a row, which count as one text. Pairs are of neighbours in a caption."""
        counted: list[Counted] = []
        for caption in captions:
            found = [token if _is_word(token) else "" for token in tokens(fold(caption or ""))]
            counted += [(language, token, "") for token in found if token]
            counted += [(language, one, other) for one, other in pairwise(found) if one and other]
        self._times.update(counted)
        if len(set(counted)) < len(counted):
            self._again.update({key: times - 1 for key, times in Counter(counted).items() if times > 1})
        if len(self._times) > _AT_ONCE:
            self._flush()

    def table(self) -> pa.Table:
        """All counts: one row of :data:`COUNTS` for each word and pair."""
        self._flush()
        return summed(pa.concat_tables(self._tables))

    def _flush(self) -> None:
        again = self._again
        columns = zip(*((*key, times, times - again.get(key, 0)) for key, times in self._times.items()), strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, COUNTS, strict=False)]
        if arrays:
            self._tables.append(pa.table(arrays, COUNTS))
        self._times, self._again = Counter(), Counter()


def summed(counts: pa.Table) -> pa.Table:
    """``counts`` with the rows of equal keys as one, in order of the keys."""
    added = counts.group_by(KEYS).aggregate([("times", "sum"), ("texts", "sum")])
    return added.rename_columns(COUNTS.names).sort_by([(name, "ascending") for name in KEYS])


def chosen(counts: pa.Table, words: int, pairs: int, min_pmi: float) -> pa.Table:
    """The entries among the frequent words and pairs of a language: columns ``entry``, ``times``, ``texts``, ``pmi``.

    Pairs count by their pointwise mutual information in bits, log2(p(a b) / (p(a) p(b))); words have none.
    ``words``, ``pairs``: occurrences of all, also of those that are not frequent.
    """
    alone = pc.equal(counts["second"], "")
    single, double = counts.filter(alone), counts.filter(pc.invert(alone))
    known = single["first"].combine_chunks()
    times = single["times"].to_numpy()
    one, other = (times[pc.index_in(double[name], known).to_numpy()] for name in ("first", "second"))
    pmi = np.log2(double["times"].to_numpy() * (words / max(pairs, 1)) * (words / (one * other)))
    phrases = map(_phrase, double["first"].to_pylist(), double["second"].to_pylist())
    columns = {"entry": pa.array([*known.to_pylist(), *phrases], pa.string())}
    columns |= {name: pa.concat_arrays([single[name].combine_chunks(), double[name].combine_chunks()])
                for name in ("times", "texts")}  # fmt: skip
    columns["pmi"] = pa.concat_arrays([pa.nulls(len(known), pa.float64()), pa.array(pmi, pa.float64())])
    found = pa.table(columns)
    return found.filter(pc.fill_null(pc.greater_equal(found["pmi"], min_pmi), True)).sort_by("entry")


def _is_word(token: str) -> bool:
    return any(map(str.isalpha, token))


def _phrase(one: str, other: str) -> str:
    """Two words as they stand in a text, together where their script puts no space between words."""
    return one + other if is_unspaced(one) and is_unspaced(other) else f"{one} {other}"

"""Count the words of texts, and the pairs of neighbouring words that belong together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.arrays import begins_run
from pipelines.curate.words import fold, is_unspaced, tokens_of_all

__all__ = ["COUNTS", "KEYS", "WordCounter", "chosen", "summed"]

COUNTS = pa.schema(
    [
        *(("language", pa.string()), ("first", pa.string()), ("second", pa.string())),  # second: "" for a word alone
        *(("times", pa.int64()), ("texts", pa.int64())),  # how often it occurs, and how many texts hold it
    ]
)
KEYS = COUNTS.names[:3]

_AT_ONCE = 4 << 20  # characters that are counted together: some 200 MB


class WordCounter:
    """Counts the words and the pairs of neighbouring words of texts; see :data:`COUNTS`."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[list[str]]] = {}
        self._size = 0
        self._tables = [COUNTS.empty_table()]

    def add(self, language: str, captions: Iterable[str | None]) -> None:
        """Count one text, or all captions of a row, which count as one text. Pairs are of neighbours in a caption."""
        folded = [fold(caption) for caption in captions if caption]
        self._waiting.setdefault(language, []).append(folded)
        self._size += sum(map(len, folded))
        if self._size >= _AT_ONCE:
            self._flush()

    def table(self) -> pa.Table:
        """All counts: one row of :data:`COUNTS` for each word and pair."""
        self._flush()
        return summed(pa.concat_tables(self._tables))

    def _flush(self) -> None:
        self._tables += [_counted(language, rows) for language, rows in self._waiting.items()]
        self._waiting, self._size = {}, 0


def _counted(language: str, rows: Sequence[Sequence[str]]) -> pa.Table:
    """The words and pairs of texts of a language; each row may have several captions."""
    found = tokens_of_all(caption for row in rows for caption in row)
    known: dict[str, int] = {"\n": 0}
    numbers = np.fromiter((known.setdefault(token, len(known)) for token in found), np.int64, len(found))
    row_of_caption = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    row = row_of_caption[np.cumsum(numbers == 0)] if len(numbers) else numbers

    # Each word, and each two words side by side, as one number.
    is_word = np.array([_is_word(token) for token in known])[numbers]
    both, width = is_word[:-1] & is_word[1:], len(known)
    keys = np.concatenate([numbers[is_word] * width, (numbers[:-1] * width + numbers[1:])[both]])
    row = np.concatenate([row[is_word], row[:-1][both]])

    order = np.lexsort((row, keys))
    keys, row = keys[order], row[order]
    starts = np.flatnonzero(begins_run(keys))
    times = np.diff(np.append(starts, len(keys)))
    texts = np.add.reduceat(begins_run(keys, row).astype(np.int64), starts) if len(starts) else times
    first, second = np.divmod(keys[starts], width)
    names = pa.array(["", *list(known)[1:]], pa.string())  # no word follows a word alone
    columns = [
        pa.repeat(pa.scalar(language, pa.string()), len(starts)),
        *(names.take(pa.array(one)) for one in (first, second)),
    ]
    return pa.table([*columns, times, texts], COUNTS)


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

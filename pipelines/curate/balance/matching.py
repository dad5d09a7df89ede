"""Match captions against the entries of their language, shard by shard on the cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ahocorasick_rs import AhoCorasick
from numpy.typing import NDArray

from infra.arrays import begins_run, ranges
from infra.formats.shards import shard_name
from infra.run.context import ShardOutput
from infra.run.manifest import ShardRecord
from infra.store import Store
from pipelines.curate.balance.counting import SCRATCH, write_counts
from pipelines.curate.balance.trie import BREAK, Trie
from pipelines.curate.captions import ALL, Texts, read_texts
from pipelines.curate.words import boundaries, fold, is_unspaced, tokens, tokens_of_all
from pipelines.tables import read_table

__all__ = ["ENTRIES", "Entries", "Matcher", "Matchers", "find_hits", "match_shard", "read_hits"]

Entries = Mapping[str, Sequence[str]]
"""Words and phrases by language. Those of ALL hold in every language that has none of its own."""

ENTRIES = f"{SCRATCH}/entries.json"
_BATCH = 20_000  # captions matched at once: some 40 MB

Array = NDArray[Any]


class Matcher:
    """Finds all entries that texts hold as whole words.

    A text holds an entry whose tokens it has in a row. In scripts without spaces an entry counts where it begins and
    ends as a word of the text does, whatever words ICU would make of the entry alone; these are found by an automaton
    (Aho and Corasick, 1975).
    """

    def __init__(self, entries: Sequence[str]) -> None:
        by_tokens: dict[tuple[str, ...], list[int]] = {}
        by_text: dict[str, list[int]] = {}
        for index, entry in enumerate(map(fold, entries)):
            if is_unspaced(entry):
                by_text.setdefault(entry, []).append(index)
            elif found := tuple(tokens(entry)):
                by_tokens.setdefault(found, []).append(index)
        self._count = len(entries)
        self._trie, self._automaton = Trie(list(by_tokens)), AhoCorasick(list(by_text))
        # Entries that are equal once folded are found together.
        self._spaced, self._unspaced = _Groups(by_tokens.values()), _Groups(by_text.values())

    def __call__(self, text: str) -> list[int]:
        """The indices of the entries in one text, each once, in order."""
        found: list[int] = self.match([text]).flatten().to_pylist()
        return found

    def match(self, texts: Sequence[str | None]) -> pa.ListArray:
        """The indices of the entries in each text, each once, in order: lists of int32."""
        folded = [fold(text or "") for text in texts]
        rows, groups = self._trie.find(_numbered(self._trie, tokens_of_all(folded)))
        rows, entries = self._spaced.members(rows, groups)
        unspaced = [self._within(row, text) for row, text in enumerate(folded) if is_unspaced(text)]
        both = np.concatenate([rows * self._count + entries, *unspaced])
        both.sort()
        both = both[begins_run(both)]
        offsets = np.searchsorted(both, np.arange(len(texts) + 1) * self._count)
        which = (both % self._count if self._count else both).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(which))

    def _within(self, row: int, text: str) -> Array:
        """The keys, ``row * entries + entry``, of the entries that a text without spaces holds."""
        ends = boundaries(text)
        matches = self._automaton.find_matches_as_indexes(text, overlapping=True)
        groups = np.array([one for one, start, end in matches if start in ends and end in ends], np.int64)
        rows, entries = self._unspaced.members(np.full(len(groups), row), groups)
        return rows * self._count + entries


def _numbered(trie: Trie, words: Sequence[str]) -> Array:
    """The numbers of words; a line break is the break between two texts."""
    ids = np.array(trie.ids(words), np.int64)
    ids[np.array([word == "\n" for word in words], bool)] = BREAK
    return ids


class _Groups:
    """Groups of entries, flat: the members of group g are ``entries[starts[g] : starts[g + 1]]``."""

    def __init__(self, groups: Any) -> None:  # noqa: ANN401 - any iterable of lists
        groups = list(groups)
        self._sizes = np.array([len(group) for group in groups], np.int64)
        self._starts = np.append(0, np.cumsum(self._sizes))
        self._entries = np.array([entry for group in groups for entry in group], np.int64)

    def members(self, rows: Array, groups: Array) -> tuple[Array, Array]:
        """Replace each group found in a row by its members."""
        if not len(groups):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        sizes = self._sizes[groups]
        return np.repeat(rows, sizes), self._entries[ranges(self._starts[groups], sizes)]


class Matchers:
    """Finds the entries of each text's language. Entries are numbered through, by language and place in its list."""

    def __init__(self, entries: Entries) -> None:
        self._matchers: dict[str, tuple[int, Matcher]] = {}
        start = 0
        for language in sorted(entries):
            self._matchers[language] = start, Matcher(entries[language])
            start += len(entries[language])

    def match(self, texts: Sequence[str | None], languages: Sequence[str]) -> pa.ListArray:
        """The numbers of the entries in each text, each once, in order: lists of int32."""
        if self._matchers.keys() == {ALL}:
            return self._matchers[ALL][1].match(texts)
        rows_of: dict[str, list[int]] = {}
        for row, language in enumerate(languages):
            rows_of.setdefault(language if language in self._matchers else ALL, []).append(row)
        found = [self._of(language, [texts[row] for row in rows]) for language, rows in rows_of.items()]
        back = np.argsort(np.array([row for rows in rows_of.values() for row in rows], np.int64))
        return pa.concat_arrays([_NOTHING, *found]).take(pa.array(back))

    def _of(self, language: str, texts: Sequence[str | None]) -> pa.ListArray:
        if language not in self._matchers:
            return pa.array([[]] * len(texts), _NOTHING.type)
        start, matcher = self._matchers[language]
        found = matcher.match(texts)
        return pa.ListArray.from_arrays(found.offsets, pc.add(found.values, pa.scalar(start, pa.int32())))


_NOTHING = pa.array([], pa.list_(pa.int32()))


@lru_cache(maxsize=1)  # half a million entries take seconds to build; a worker does many shards
def _matchers(entries: bytes) -> Matchers:
    return Matchers(json.loads(entries))


def match_shard(
    selection: Store, own: Store, by_language: bool, spec: tuple[int, str], output: ShardOutput
) -> ShardRecord:
    """Write the entries that each row holds in any of its captions, and how many rows hold each entry."""
    shard, path = spec
    hits = find_hits(_matchers(own.read(ENTRIES)), read_texts(selection, path, by_language))
    output.write_table(_path(shard_name(shard)), hits)
    write_counts(output, f"before-{shard_name(shard)}", hits)
    return output.commit()


def find_hits(matchers: Matchers, texts: Texts) -> pa.Table:
    """The entries of each row, each once for a language: columns ``row``, ``language`` and ``entry``, in order of rows.

    An entry of captions in two languages counts in both.
    """
    found = [_NOTHING]
    for start in range(0, len(texts.texts), _BATCH):
        part = slice(start, start + _BATCH)
        found.append(matchers.match(texts.texts[part], texts.languages[part]))
    lists = pa.concat_arrays(found)
    texts_of = pc.list_parent_indices(lists)
    rows = texts.rows[texts_of.to_numpy()]
    languages = pa.array(texts.languages, pa.string()).take(texts_of)
    hits = pa.table({"row": rows, "language": languages, "entry": lists.flatten()})
    if len(texts.texts) > len(np.unique(texts.rows)):  # several captions of a row may hold an entry
        hits = hits.group_by(hits.column_names, use_threads=False).aggregate([])
        hits = hits.sort_by([(name, "ascending") for name in hits.column_names])
    return hits


def read_hits(own: Store, shard: str) -> pa.Table:
    """Entries that :func:`find_hits` found in a shard."""
    return read_table(own, _path(shard))


def _path(shard: str) -> str:
    return f"{SCRATCH}/matches-{shard}.parquet"

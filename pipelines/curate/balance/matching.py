"""Match captions against the entries, shard by shard on the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import pyarrow as pa
from ahocorasick_rs import AhoCorasick

from infra.formats.shards import shard_name
from infra.run.context import ShardOutput
from infra.run.manifest import ShardRecord
from infra.store import Store
from pipelines.curate.words import boundaries, fold, is_unspaced, tokens
from pipelines.tables import read_table

__all__ = ["ENTRIES", "Matcher", "match_shard", "read_matches"]

ENTRIES = "data/entries.txt"


class Matcher:
    """Finds all entries that a text holds as whole words, in one pass (Aho and Corasick, 1975).

    With its tokens spaced out, a text holds an entry as whole words where it holds the entry between spaces. In scripts
    without spaces an entry counts where it begins and ends as a word of the text does, whatever words ICU would make of
    the entry alone.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        folded = [fold(entry) for entry in entries]
        self._spaced = [index for index, entry in enumerate(folded) if not is_unspaced(entry)]
        self._unspaced = [index for index, entry in enumerate(folded) if is_unspaced(entry)]
        self._in_spaced = AhoCorasick([_spaced_out(folded[index]) for index in self._spaced])
        self._in_unspaced = AhoCorasick([folded[index] for index in self._unspaced])

    def __call__(self, text: str) -> list[int]:
        """The indices of the entries found, each once, in order."""
        text = fold(text)
        matches = self._in_spaced.find_matches_as_indexes(_spaced_out(text), overlapping=True)
        found = {self._spaced[entry] for entry, _, _ in matches}
        if self._unspaced and is_unspaced(text):
            ends = boundaries(text)
            matches = self._in_unspaced.find_matches_as_indexes(text, overlapping=True)
            found |= {self._unspaced[entry] for entry, start, end in matches if start in ends and end in ends}
        return sorted(found)


def _spaced_out(text: str) -> str:
    return f" {' '.join(tokens(text))} "


@lru_cache(maxsize=1)  # half a million entries take a second to build; a worker does many shards
def _matcher(entries: bytes) -> Matcher:
    return Matcher(entries.decode().splitlines())


def match_shard(selection: Store, own: Store, spec: tuple[int, str], output: ShardOutput) -> ShardRecord:
    """Write ``data/matches-{shard}.parquet``: the entries in each row's caption, in the order of the rows."""
    shard, path = spec
    matcher = _matcher(own.read(ENTRIES))
    found = [matcher(caption or "") for caption in read_table(selection, path, ["caption"])["caption"].to_pylist()]
    output.write_table(_path(shard_name(shard)), pa.table({"entries": pa.array(found, pa.list_(pa.int32()))}))
    return output.commit()


def read_matches(own: Store, shard: str) -> pa.ChunkedArray:
    """The entries in each row's caption: lists of int32."""
    return read_table(own, _path(shard))["entries"]


def _path(shard: str) -> str:
    return f"data/matches-{shard}.parquet"

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
from pipelines.curate.balance.entries import spaced
from pipelines.tables import read_table

__all__ = ["ENTRIES", "Matcher", "match_shard", "read_matches"]

ENTRIES = "data/entries.txt"


class Matcher:
    """Finds all entries that a text holds as whole words, in one pass (Aho and Corasick, 1975)."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._automaton = AhoCorasick([f" {entry} " for entry in entries]) if entries else None

    def __call__(self, text: str) -> list[int]:
        """The indices of the entries found, each once, in order."""
        if self._automaton is None:
            return []
        found = self._automaton.find_matches_as_indexes(spaced(text), overlapping=True)
        return sorted({entry for entry, _, _ in found})


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

"""Count on the cluster and add up in a tree, so that no process holds more than the counts themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.cluster import Limits, run_shards
from infra.run.context import Context, Output, ShardOutput
from infra.run.manifest import ShardRecord
from infra.store import Store
from pipelines.tables import read_table

__all__ = ["NO_COUNTS", "SCRATCH", "Totals", "add_up", "write_counts"]

SCRATCH = "scratch"
"""Folder of what the stage needs only itself; deleted at its end."""

NO_COUNTS = pa.schema({"language": pa.string(), "entry": pa.int32(), "captions": pa.int64()}).empty_table()

_FAN_IN = 64  # tables added up by one task


def write_counts(output: Output, name: str, hits: pa.Table) -> None:
    """Write how many rows hold each entry in each language: columns ``language``, ``entry`` and ``captions``.

    ``hits``: the entries of rows, see :func:`pipelines.curate.balance.matching.find_hits`.
    """
    counts = hits.group_by(["language", "entry"], use_threads=False).aggregate([([], "count_all")])
    counts = counts.rename_columns(["language", "entry", "captions"])
    output.write_table(_path(name), counts.sort_by([("language", "ascending"), ("entry", "ascending")]))


def add_up(context: Context, names: Sequence[str], total: str, limits: Limits) -> str:
    """Add up the tables ``names``, one or more, and return the path of the sum: rows of equal keys are one.

    Keys are the columns of text and int32, counts those of int64. A tree of tasks: each adds up some tables.
    """
    level = 0
    while len(names) > 1 or level == 0:
        groups = [names[start : start + _FAN_IN] for start in range(0, len(names), _FAN_IN)]
        above = [f"{total}-level{level}-{number:05d}" for number in range(len(groups))]
        work = partial(_add, context.store)
        run_shards(context, [(name, (name, group)) for name, group in zip(above, groups, strict=True)], work, limits)
        names, level = above, level + 1
    return _path(names[0])


def _add(own: Store, spec: tuple[str, Sequence[str]], output: ShardOutput) -> ShardRecord:
    name, parts = spec
    table = pa.concat_tables([read_table(own, _path(part)) for part in parts])
    keys = [field.name for field in table.schema if field.type != pa.int64()]
    sums = [(field.name, "sum") for field in table.schema if field.type == pa.int64()]
    added = table.group_by(keys).aggregate(sums)
    added = added.rename_columns([column.removesuffix("_sum") for column in added.column_names])
    added = added.sort_by([(key, "ascending") for key in keys])
    output.write_table(_path(name), added)
    return output.commit()


class Totals:
    """Rows that hold each entry in each language: numbers as large as the entries found, looked up by bisection.

    ``table``: the sum of tables of :func:`write_counts`. ``languages``: those in it, in order; a language's place
    there is its code below.
    """

    def __init__(self, table: pa.Table) -> None:
        self.languages: list[str] = sorted(table["language"].unique().to_pylist())
        self.codes = self.codes_of(table["language"])
        self.entries = table["entry"].to_numpy()
        self.captions = table["captions"].to_numpy()
        self._keys = self._key(self.codes, self.entries)
        assert (np.diff(self._keys) > 0).all(), "the sum is not in order"

    def codes_of(self, languages: pa.ChunkedArray) -> NDArray[np.int64]:
        """The code of each language; -1 of one that holds no entry."""
        codes = pc.index_in(languages, pa.array(self.languages, pa.string()))
        return np.asarray(codes.fill_null(-1).to_numpy().astype(np.int64))

    def of(self, codes: NDArray[np.int64], entries: NDArray[Any]) -> NDArray[np.int64]:
        """The rows that hold each of ``entries`` in the language of each of ``codes``; 0 if there are none."""
        keys = self._key(codes, entries)
        if not len(self._keys):
            return np.zeros(len(keys), np.int64)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.asarray(np.where(self._keys[places] == keys, self.captions[places], 0))

    @staticmethod
    def _key(codes: NDArray[np.int64], entries: NDArray[Any]) -> NDArray[np.int64]:
        return codes << 32 | entries.astype(np.int64)


def _path(name: str) -> str:
    return f"{SCRATCH}/{name}.parquet"

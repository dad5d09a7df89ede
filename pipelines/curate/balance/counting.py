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

__all__ = ["SCRATCH", "add_up", "read_counts", "write_counts"]

SCRATCH = "scratch"
"""Folder of what the stage needs only itself; deleted at its end."""

_FAN_IN = 64  # tables added up by one task


def write_counts(output: Output, name: str, matches: pa.ChunkedArray) -> None:
    """Write how many lists hold each number: columns ``entry`` and ``captions``."""
    entries, captions = np.unique(pc.list_flatten(matches).to_numpy(), return_counts=True)
    output.write_table(_path(name), pa.table({"entry": pa.array(entries, pa.int32()), "captions": captions}))


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


def read_counts(table: pa.Table, entries: int) -> NDArray[np.int64]:
    """The counts of all entries, (entries,), of a table that has those above 0."""
    counts: NDArray[Any] = np.zeros(entries, np.int64)
    if table.num_rows:
        counts[table["entry"].to_numpy()] = table["captions"].to_numpy()
    return counts


def _path(name: str) -> str:
    return f"{SCRATCH}/{name}.parquet"

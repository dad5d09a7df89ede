"""The steps of writing a subset: send ids to their part, sort the parts, join them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.arrays import begins_run
from infra.errors import DataError
from infra.exchange import DOWN, UP, Exchange, Task, parts_of
from infra.run.context import Context, Output
from infra.run.manifest import Artifact, Funnel, Manifest
from infra.store import Store
from pipelines.curate.shard.split import REPEATS
from pipelines.curate.subset.config import Config
from pipelines.curate.subset.ids import DTYPE, UID
from pipelines.layout import chunk_rows, kept_files
from pipelines.tables import read_slices

__all__ = ["SUBSET", "write_ids"]

SUBSET = "data/subset.npy"

_SCRATCH = "scratch"
_SMALL = 20_000  # rows that need no cluster
_ROWS = 1_000_000  # of a lot, and of a part
_UID = re.compile(UID)
_IDS = pa.schema([("high", pa.uint64()), ("low", pa.uint64()), ("times", pa.int64())])


def write_ids(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Write the ids of all kept rows of the one input, in order, each once or as often as its row repeats."""
    ((name, artifact),) = inputs.items()
    files = artifact.files("data/kept-", ".parquet") if name == "selection" else kept_files(artifact)
    total = sum(file.rows or 0 for file in files)
    exchange = Exchange(context, config.limits, here=total <= _SMALL)
    parts = parts_of(total, _ROWS)
    lots = list(chunk_rows(files, _ROWS)) or [()]
    sent = exchange.step("ids", lots, partial(_send, artifact.store, parts), sends={"ids": parts})
    pieces = exchange.step("sort", range(parts), _sort, receives=["ids"])
    ids = [record.facts["ids"] for record in pieces]
    joined = exchange.step("join", [ids], _join)
    exchange.close()
    manifest = context.finish(sent.plus(joined), facts={"ids": sum(ids), "rows": total})
    context.store.delete(_SCRATCH)
    return manifest


def _send(store: Store, parts: int, task: Task) -> None:
    """Stream ``ids``: those of a lot, to the part of their range."""
    ids = _IDS.empty_table()
    if task.spec:
        rows = read_slices(store, task.spec, ["uid", REPEATS])
        high, low = _halves(rows["uid"])
        ids = pa.table([high, low, _times(rows)], _IDS)
    task.funnel = Funnel(unit="rows", entered=ids.num_rows, kept=ids.num_rows)
    part = (ids["high"].to_numpy() >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)
    task.send("ids", ids, part.astype(np.int64))


def _times(rows: pa.Table) -> Any:  # noqa: ANN401 - a pyarrow array of int64
    """Return the number of times that each row is listed. Raises DataError unless these are counts."""
    if REPEATS not in rows.column_names:
        return pa.repeat(pa.scalar(1, pa.int64()), rows.num_rows)
    try:
        times = pc.fill_null(rows[REPEATS].cast(pa.int64()), 1)
    except pa.ArrowInvalid as error:
        raise DataError(f"the column {REPEATS} holds no counts", found=str(error)) from error
    if pc.any(pc.less(times, 1)).as_py():
        raise DataError(
            f"the column {REPEATS} holds {pc.min(times).as_py()}", expected="how often to list a row, from 1 on"
        )
    return times


def _halves(uids: pa.ChunkedArray) -> list[pa.Array]:
    """The first and the last 64 bits of each id. Raises DataError for what is none."""
    texts = uids.to_pylist()
    if wrong := [text for text in texts if not (text and _UID.fullmatch(text))]:
        raise DataError("a row's uid is no id of DataComp's", expected="32 hex digits", found=repr(wrong[0]))
    numbers = np.frombuffer(bytes.fromhex("".join(texts)), ">u8").astype(np.uint64).reshape(-1, 2)
    return [pa.array(numbers[:, half]) for half in (0, 1)]


def _sort(task: Task) -> None:
    """Write the distinct ids of a part, in order. Fact ``ids``: how many, with those that repeat."""
    rows = task.receive("ids", [("high", UP), ("low", UP), ("times", DOWN)])
    high, low, times = (rows[name].to_numpy() for name in _IDS.names)
    first = begins_run(high, low)
    ids = np.zeros(int(first.sum()), DTYPE)
    ids["f0"], ids["f1"] = high[first], low[first]
    ids = np.repeat(ids, times[first])
    task.facts["ids"] = len(ids)
    # Not through the output of the task: the piece is no file of the artifact.
    Output(task.output.store).write(_piece(task.number), ids.tobytes())


def _join(task: Task) -> None:
    """Write all pieces, whose sizes the ``spec`` has, as one file of numpy's."""
    header = {"descr": DTYPE.descr, "fortran_order": False, "shape": (sum(task.spec),)}
    with task.output.open(SUBSET, rows=sum(task.spec)) as out:
        np.lib.format.write_array_header_1_0(out, header)
        for number in range(len(task.spec)):
            out.write(task.output.store.read(_piece(number)))


def _piece(number: int) -> str:
    return f"{_SCRATCH}/{number:05d}.ids"
